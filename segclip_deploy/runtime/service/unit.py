"""The unit that runs an engine as a service: text for systemd, and what its user does with it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.formats.address import display_name, is_address

__all__ = ["ServiceUnit", "make_unit", "unit_path", "unit_word"]

_NAME = "segclip-deploy.service"
_SECRETS = "/etc/segclip-deploy.env"
_PLAIN = re.compile(r"[A-Za-z0-9@+=:,./_-]+")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CARRIED = ("LD_LIBRARY_PATH", "PYTHONPATH", "GST_PLUGIN_PATH")
"""Variables that decide what is loaded here, and would be absent there."""
_DEVICE_GROUPS = {"/dev/video": "video", "/dev/tty": "dialout", "/dev/dri": "render"}

_TEXT = """\
# {name}, by segclip-deploy {version}: {title}
{steps}
[Unit]
Description=segclip-deploy: {title}
After=time-sync.target {network}nvpmodel.service nvargus-daemon.service nvidia-persistenced.service
{wants}RequiresMountsFor={mounts}
# A camera may come hours after the board: try for ever.
StartLimitIntervalSec=0

[Service]
Type=notify
User={user}
{groups}{environment}{prepare}ExecStart={command}
# READY=1 comes after verification and the first frame.
TimeoutStartSec=5min
# Longer than the 75 s after which a run gives up a camera itself. A dump would fill the disk.
WatchdogSec=90
LimitCORE=0
# 4: a camera or the GPU went away. 1, 2 and 3 stay: input, options, verification.
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=1 2 3
# SIGTERM: the frame in work is finished, everything is closed, exit code 130.
KillMode=mixed
SuccessExitStatus=130
TimeoutStopSec=30
# The GPU compiles and maps code, and loads its driver's nodes: nothing here forbids that.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
CacheDirectory=segclip-deploy
LockPersonality=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class ServiceUnit:
    """A unit of systemd.

    Attributes:
        text: of the file, its first lines say how it is installed.
        path: where it belongs.
        secrets: the file that its user puts sources with a password into; None where none has one.
    """

    text: str
    path: Path
    secrets: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        secrets = None if self.secrets is None else str(self.secrets)
        return {"text": self.text, "path": str(self.path), "secrets": secrets}


def unit_word(text: str, *, program: bool = False) -> str:
    """A word of ``ExecStart=`` that systemd reads as ``text`` (systemd.syntax(7), systemd.service(5)).

    Args:
        text: any, also bytes that are no UTF-8, as ``os.fsdecode`` gives them.
        program: it is the first word, in which systemd replaces no variable.

    Examples:
        >>> unit_word("100 % of $HOME")
        '"100 %% of $$HOME"'
    """
    if _PLAIN.fullmatch(text):
        return text
    plain = {'"': '\\"', "\\": "\\\\", "%": "%%", "$": "$" if program else "$$"}
    return f'"{"".join(plain.get(c) or _escaped(c) for c in text)}"'


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def unit_path(path: Path) -> str:
    """A path for a setting such as ``ReadWritePaths=``, where systemd knows no escapes.

    Raises:
        BadInput: a path that cannot be said without them.
    """
    text = str(path)
    if not text.isprintable() or '"' in text or "\\" in text:
        raise BadInput(
            "a unit of systemd cannot name a path with a quote, a backslash or a control character",
            where=path,
            fix="rename it",
        )
    return unit_word(text).replace("$$", "$")


def make_unit(
    words: Sequence[str],
    *,
    engine: Path,
    sources: Sequence[str],
    out: Path,
    on_gpu: bool,
    environment: Mapping[str, str] | None = None,
) -> ServiceUnit:
    """The unit of a run on this machine, for this user.

    Args:
        words: of ``run``, options behind ``ENGINE SOURCE...``, without ``--service``.
        engine: the engine or bundle.
        sources: as the user named them; those of a URL with a password stay out of the unit.
        out: the folder of the results.
        on_gpu: the engine runs on a GPU.
        environment: of this process, by default.

    Raises:
        BadInput: a path that no unit can name.
    """
    environment = os.environ if environment is None else environment
    local = [Path(s).absolute() for s in sources if _is_file(s)]
    hidden = {
        source: f"SOURCE_{number}"
        for number, source in enumerate(sources, start=1)
        if display_name(source) != source
    }
    out, engine = out.absolute(), engine.absolute()
    where = {source: str(Path(source).absolute()) for source in sources if _is_file(source)}
    told = [f"${{{hidden[s]}}}" if s in hidden else unit_word(where.get(s, s)) for s in sources]
    program, *rest = _program()
    line = [
        unit_word(program, program=True),
        *map(unit_word, (*rest, "run", str(engine))),
        *told,
        *map(unit_word, ("-o", str(out), *words, "--service")),
    ]
    networked = any(is_address(source) for source in sources)
    secrets = Path(_SECRETS) if hidden else None
    text = _TEXT.format(
        name=_NAME,
        version=__version__,
        title=_title(engine, sources),
        steps=_steps(out, hidden),
        network="network-online.target " * networked,
        wants="Wants=network-online.target\n" * networked,
        mounts=" ".join(unit_path(path) for path in (engine, *local, out)),
        user=_user(),
        groups=_groups((*sources, *words), on_gpu=on_gpu),
        environment=_environment(environment, secrets),
        prepare=_prepare(on_gpu=on_gpu),
        command=" \\\n    ".join(
            (" ".join(line[: len(rest) + 1]), " ".join(line[len(rest) + 1 :]))
        ),
        writable=f"{unit_path(out)} /tmp",
    )
    return ServiceUnit(text, Path("/etc/systemd/system") / _NAME, secrets)


def _is_file(source: str) -> bool:
    """Whether a source is a file or folder, not a device, a URL or a pipeline."""
    return not source.startswith("/dev/") and Path(source).exists()


def _title(engine: Path, sources: Sequence[str]) -> str:
    shown = " ".join((engine.name, "on", *map(display_name, sources)))
    return "".join(c if c.isprintable() else "?" for c in shown).replace("%", "%%").rstrip("\\")


def _program() -> list[str]:
    """The command that runs this package as it runs now."""
    script = Path(sys.executable).with_name("segclip-deploy")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from segclip_deploy.cli import main; main()"]


def _steps(out: Path, hidden: Mapping[str, str]) -> str:
    """What its user does with it, as comments."""
    steps = [
        f"save this as /etc/systemd/system/{_NAME}",
        command("mkdir", "-p", out),
        *(
            f'as root, write {name}="the source with its password" into {_SECRETS}, and chmod 600 it'
            for name in hidden.values()
        ),
        "sudo systemctl daemon-reload",
        f"sudo systemctl enable --now {_NAME}",
        f"journalctl -fu {_NAME}",
    ]
    return "\n".join(f"# {number}. {step}" for number, step in enumerate(steps, start=1))


def _user() -> str:
    import pwd  # Unix has it, as it has systemd

    return pwd.getpwuid(os.getuid()).pw_name


def _groups(words: Iterable[str], *, on_gpu: bool) -> str:
    """Groups that devices are open to; systemd starts no unit that names an absent one."""
    import grp

    known = {group.gr_gid: group.gr_name for group in grp.getgrall()}
    wanted = {"video", "render"} if on_gpu else set()
    for word in words:
        wanted |= {group for start, group in _DEVICE_GROUPS.items() if start in word}
        if word.startswith("/dev/") and Path(word).exists():
            wanted.add(known.get(Path(word).stat().st_gid, "root"))
        if word.startswith(("csi:", "usb:", "gst:")):
            wanted.add("video")
    groups = sorted((wanted & set(known.values())) - {"root"})
    return f"SupplementaryGroups={' '.join(groups)}\n" if groups else ""


def _environment(environment: Mapping[str, str], secrets: Path | None) -> str:
    """What the shell of this user has and a service has not."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "XDG_CACHE_HOME": "/var/cache/segclip-deploy",
        # A run that hangs tells in which lines, when the watchdog ends it.
        "PYTHONFAULTHANDLER": "1",
        **{name: environment[name] for name in _CARRIED if environment.get(name)},
    }
    lines = [
        f"Environment={unit_word(f'{name}={value}').replace('$$', '$')}"
        for name, value in variables.items()
    ]
    lines += [f"EnvironmentFile={secrets}"] if secrets else []
    return "".join(f"{line}\n" for line in lines)


def _prepare(*, on_gpu: bool) -> str:
    """What root does before each start."""
    lines = []
    if on_gpu and Path("/usr/bin/nvidia-modprobe").exists():
        lines.append("ExecStartPre=+-/usr/bin/nvidia-modprobe -u -c 0")
    if on_gpu and Path("/usr/bin/jetson_clocks").exists():
        lines.append("# Fixed clocks: steadier latency, more heat. Remove the # for them.")
        lines.append("#ExecStartPre=+/usr/bin/jetson_clocks")
    return "".join(f"{line}\n" for line in lines)
