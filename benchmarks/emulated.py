"""An arm64 Debian that QEMU runs, in a folder: made once, entered in namespaces of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.errors import BadInput, MissingDependency, command

__all__ = ["CPU", "Emulated", "check_host", "make_root", "need"]

SUITE = "bookworm"  # Python 3.11 and glibc 2.36, between those of JetPack 6 and 7
CORES = 2

CPU = "cortex-a76"
"""What QEMU emulates: the instructions of Orin's Cortex-A78AE (ARMv8.2 with FP16 and dot products)."""

FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
IMPLEMENTER, VARIANT, PART, REVISION = 0x41, 4, 0xD0B, 1  # of Arm's register MIDR_EL1

PACKAGES = ("qemu-user-static", "debootstrap", "binfmt-support")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
FROM_HOST = ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt")

INSIDE = """
root=$1 work=$2
shift 2
mount -t proc proc "$root/proc"
mount --bind "$root/sys/cpuinfo" "$root/proc/cpuinfo"
mount --rbind /dev "$root/dev"
mount --bind "$work" "$root/mnt"
for file in {files}; do
    [ -e "$file" ] && mkdir -p "$root${{file%/*}}" && touch "$root$file" && mount --bind "$file" "$root$file"
done
exec chroot "$root" "$@"
""".format(files=" ".join(FROM_HOST))
"""Of sh, in a mount and PID namespace of its own: both end with it, however it ends."""


@dataclass(frozen=True)
class Emulated:
    """The arm64 system.

    Attributes:
        root: its folder.
        work: the folder that is /mnt there.
    """

    root: Path
    work: Path

    def call(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a command there, to its end."""
        names = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        shell = ["sh", "-euc", INSIDE, "sh", self.root, self.work]
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "QEMU_CPU": CPU,
        }
        return subprocess.run(
            [*names, *shell, *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


def check_host() -> None:
    """Accept a machine that can make and run an arm64 system.

    Raises:
        BadInput: not as root.
        MissingDependency: a program, or the kernel's entry for arm64, is not there.
    """
    if os.geteuid() != 0:
        raise BadInput(
            "makes a system with chroot and mount, which needs root", fix="run it as root"
        )
    if not all(shutil.which(name) for name in ("qemu-aarch64-static", "debootstrap", "unshare")):
        raise MissingDependency(
            "QEMU or debootstrap is not installed", fix=command("apt-get", "install", *PACKAGES)
        )
    entry = BINFMT / "qemu-aarch64"
    if not entry.exists() or not re.search(r"enabled[\s\S]*flags: .*F", entry.read_text()):
        mount = command("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
        enable = command("update-binfmts", "--enable", "qemu-aarch64")
        raise MissingDependency(
            "the kernel does not run arm64 programs by QEMU",
            fix=enable if (BINFMT / "register").exists() else f"{mount} && {enable}",
        )


def make_root(root: Path) -> None:
    """Make the system, unless it is there; one that was interrupted is made anew."""
    if root.exists():
        return
    part = root.with_name(f"{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    print(f"making an arm64 Debian {SUITE} in {root}", flush=True)
    options = [
        "--arch=arm64",
        "--variant=minbase",
        "--include=python3,python3-venv,ca-certificates",
    ]
    # It mounts /proc, and leaves it mounted when it is killed: not in a namespace of its own.
    words = ["unshare", "--mount", "debootstrap", *options, SUITE, str(part)]
    need(subprocess.run(words, capture_output=True, text=True, check=False))
    describe_processor(part)
    part.rename(root)


def describe_processor(root: Path) -> None:
    """Write the files by which libraries find out what the processor can do.

    Those of this machine describe an x86-64 one. ONNX Runtime 1.32 and OpenVINO 2026.4 crash on them,
    and without any ONNX Runtime takes its slowest kernels, which no board would run.
    """
    core = f"BogoMIPS\t: 50.00\nFeatures\t: {FEATURES}\nCPU implementer\t: {IMPLEMENTER:#x}\n"
    core += f"CPU architecture: 8\nCPU variant\t: {VARIANT:#x}\nCPU part\t: {PART:#x}\n"
    core += f"CPU revision\t: {REVISION}\n"
    cpuinfo = "\n".join(f"processor\t: {index}\n{core}" for index in range(CORES))
    put(root / "sys/cpuinfo", cpuinfo)
    system, all_cores = root / "sys/devices/system", f"0-{CORES - 1}"
    for name in ("possible", "present", "online"):
        put(system / "cpu" / name, all_cores)
    midr = IMPLEMENTER << 24 | VARIANT << 20 | 0xF << 16 | PART << 4 | REVISION
    for index in range(CORES):
        folder, own = system / f"cpu/cpu{index}", f"{1 << index:x}"
        put(folder / "online", "1")
        put(folder / "regs/identification/midr_el1", f"{midr:#018x}")
        for name, value in (("core_id", index), ("physical_package_id", 0), ("core_cpus", own),
                            ("thread_siblings", own), ("package_cpus", f"{(1 << CORES) - 1:x}"),
                            ("core_siblings", f"{(1 << CORES) - 1:x}")):  # fmt: skip
            put(folder / "topology" / name, str(value))


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip("\n") + "\n", encoding="ascii")


def need(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed.

    Raises:
        BadInput: it failed.
    """
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip().splitlines()[-1:]
        what = f"ended with {done.returncode}: {' '.join(said)}"
        raise BadInput(what, where=command(*done.args[-3:]))
    return done.stdout
