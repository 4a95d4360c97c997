"""A run as a service of systemd: what it tells the manager, how it goes on after a restart, its unit."""
