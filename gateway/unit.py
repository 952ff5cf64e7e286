"""The systemd unit that `gateway unit` prints. Text only: called by `cli.py`, imports nothing.

Hardened so that `systemd-analyze security` rates its exposure at 1.5 or below: no privileges, a
user that exists while it runs, a file system it can read but not write except its own state
directory, and the system calls a network service needs. Directives: systemd.exec(5), version 252.
"""

STATE_DIRECTORY = "/var/lib/gateway"
STOP_MARGIN_S = 15
"""What shutting down may take beyond draining before systemd sends SIGKILL."""

_UNIT = """\
# Install:
#   install -m 0755 -d /etc/gateway
#   install -m 0644 config.toml /etc/gateway/    (with store.path = "{state}/gateway.db")
#   (umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > /etc/gateway/secret)
#   install -m 0600 /dev/null /etc/gateway/environment    (OPENAI_API_KEY=... lines go there)
#   gateway unit --config /etc/gateway/config.toml > /etc/systemd/system/gateway.service
#   systemctl daemon-reload && systemctl enable --now gateway
# Keep a copy of /etc/gateway/secret: without it issued keys stop working.
# Use the other verbs as root while the service runs; they reach it over its local socket.

[Unit]
Description=LLM API gateway
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command} --config {config} serve
LoadCredential=gateway-secret:/etc/gateway/secret
EnvironmentFile=-/etc/gateway/environment
Restart=on-failure
RestartSec=1

# SIGTERM drains: open streams finish for up to server.drain_seconds ({drain_s} s).
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={stop_s}

# One descriptor for a client and one for its upstream: about half as many streams as this.
LimitNOFILE=65536

DynamicUser=yes
StateDirectory=gateway
StateDirectoryMode=0700
WorkingDirectory={state}
UMask=0077

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateUsers=yes
PrivateIPC=yes
DevicePolicy=closed
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Threads that check passwords make themselves nicer than those that serve calls.
SystemCallFilter=setpriority
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def render(*, command: str, config: str, drain_s: float) -> str:
    """The unit's text. `command` and `config` are absolute paths, `drain_s` is in seconds."""
    return _UNIT.format(
        command=_quote(command),
        config=_quote(config),
        state=STATE_DIRECTORY,
        drain_s=f"{drain_s:g}",
        stop_s=int(drain_s) + STOP_MARGIN_S,
    )


def _quote(path: str) -> str:
    """One word of a command line: `%` and `$` would expand (systemd.service(5))."""
    text = path.replace("%", "%%").replace("$", "$$")
    if any(char.isspace() or char in "\"'\\;" for char in text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
