"""The ministack emulator of AWS as a process on a loopback port.

Nothing here can reach AWS: each client and each child process gets the emulator's address and made-up credentials.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import botocore.session
import trustme
from botocore.config import Config

from local.processes import held_port, listens, server, tool

REGION = "eu-central-1"
# It must not look for the profile in AWS_PROFILE, which may be in no configuration file here.
SESSION = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
# As root, `python -m ministack` also listens on port 443, for which emulators compete.
# It takes the lines that a function has written 5 ms after its reply for all lines of the invocation. On a busy machine
# the others would come with the next invocation, or never. Here the function's process marks the last line.
SERVE = """
import contextlib, queue, sys
from hypercorn.__main__ import main
from ministack.core import lambda_runtime

MARK, END = "<the end of an invocation>", "        _real_stdout.flush()\\n\\nrun()"
before, end, after = lambda_runtime._PYTHON_WORKER_SCRIPT.partition(END)
assert end, "another version of ministack"
lambda_runtime._PYTHON_WORKER_SCRIPT = f"{before}        print({MARK!r}, flush=True)\\n{end}{after}"

def lines(worker):
    found = []
    with contextlib.suppress(queue.Empty):  # it died
        while (line := worker._stderr_queue.get(timeout=10)) != MARK:
            found.append(line)
    return "\\n".join(found)

lambda_runtime.Worker._drain_stderr_bounded = lines
sys.exit(main())
"""


@dataclass
class Emulator:
    """An emulator, which runs while the context is entered.

    Attributes:
        state: a directory for everything that the emulator and SAM write.
        say: takes a line for each step, for the person who waits.
        port: the emulator's loopback port, once it runs.
    """

    state: Path
    say: Callable[[str], None] = lambda _line: None
    port: int = field(default=0, init=False)
    _clients: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _ending: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)

    @property
    def url(self) -> str:
        """The emulator's endpoint."""
        return f"https://localhost:{self.port}"

    @property
    def ca_bundle(self) -> Path:
        """The certificate authority that clients of the emulator trust."""
        return self.state / "ca.pem"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point the AWS CLI, SAM or boto3 to the emulator, and to nothing else."""
        nowhere = str(self.state / "no-such-file")
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CA_BUNDLE": str(self.ca_bundle),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": "0.5",
        }

    def __enter__(self) -> Self:
        """Start the emulator and wait until it answers.

        Raises:
            LocalError: it is not installed, or does not start.
        """
        python = tool("emulator/bin/python")
        (self.state / "tmp").mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(str(self.ca_bundle))
        certificate.private_key_pem.write_to_path(str(self.state / "key.pem"))
        (self.state / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        self.port = self._ending.enter_context(held_port())
        self.say(f"starting the emulator on {self.url}")
        command = [
            *(str(python), "-c", SERVE, "ministack.app:app", "--workers", "0", "--keep-alive", "75"),
            *("--certfile", str(self.state / "cert.pem"), "--keyfile", str(self.state / "key.pem")),
            *("--bind", f"127.0.0.1:{self.port}"),
        ]
        environment = {
            "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.state),
            "TMPDIR": str(self.state / "tmp"),
            "STATE_DIR": str(self.state),
            **self.environment,
            "GATEWAY_PORT": str(self.port),
            "MINISTACK_REGION": REGION,
            "MINISTACK_SSL_CERT": str(self.state / "cert.pem"),
            "MINISTACK_SSL_KEY": str(self.state / "key.pem"),
            "USE_SSL": "1",  # the queues refuse plain http
            "AUTH": "true",  # a permission that the function's role lacks shows up
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        how: dict[str, Any] = {"cwd": self.state, "env": environment}
        running = server("emulator", command, self.state / "emulator.log", lambda: listens(self.port), **how)
        self._ending.enter_context(running)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the clients; end the emulator and the functions' workers, which are its children."""
        self._ending.close()

    def client(self, service: str) -> Any:
        """Return the client of a service of the emulator."""
        if service not in self._clients:
            self._clients[service] = SESSION.create_client(
                service,
                endpoint_url=self.url,
                verify=str(self.ca_bundle),
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",  # noqa: S106 - the emulator's
                config=Config(proxies={}, max_pool_connections=20, retries={"total_max_attempts": 3}),
            )
            self._ending.callback(self._clients[service].close)
        return self._clients[service]
