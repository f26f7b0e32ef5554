"""One life of a job: its processes, from their start to the end of all of them.

`Supervised` is `plexus train` (supervisor and children), `Mpirun` is launch/mpirun.sh, `Local` one process, and `ByHand`
starts the role programs behind proxies and restarts what is killed, as an orchestrator would.
"""
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

import jobs
import proxy
from jobs import cluster

PROGRAMS = {"scheduler": "plexus-scheduler", "server": "plexus-ps", "worker": "plexus-worker"}
POLL_SECONDS = 0.02


def arguments_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (OSError, UnicodeDecodeError):
        return []


def members(run, role, supervised=False):
    """{index: pid} of the processes of a role, by what the kernel says; `supervised`: without those that guard one."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        words = arguments_of(entry)
        if words and words[0].endswith(PROGRAMS[role]) and f"--run_dir={run}" in words:
            if supervised and not any(word.startswith("--supervisor_pid=") for word in words):
                continue
            index = next((int(w.split("=")[1]) for w in words if w.startswith("--index=")), 0)
            found[index] = int(entry)
    return found


def send(pid, number):
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


class Supervised:
    """plexus train, or what else `command` makes."""
    supervised = True
    proxies = None

    def __init__(self, job, run, workspace, sets, servers, workers, *, resume, environment,
                 command=cluster.train_command, local=False):
        overrides = job.overrides(workspace, **sets) + (["--resume"] if resume else [])
        more = {"local": True} if local else {}
        line = command(run, overrides, job=job.file, servers=servers, workers=workers, **more)
        self.run = run
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        # A job that ends with 3 where it should not is to be seen, not started again in silence.
        more = [] if command is cluster.mpirun_command else ["--http_address=127.0.0.1:0", "--restarts=0"]
        self.process = subprocess.Popen(
            [*map(str, line), *more],
            stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PLEXUS_BIN": str(cluster.BIN), **environment})

    def poll(self):
        """The exit code, once it has ended."""
        return self.process.poll()

    def kill_everything(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(timeout=20)
        self.sweep()

    def sweep(self):
        """Kills what the end of the life has left behind; how many those were."""
        left = 0
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            alive = [pid for role in PROGRAMS for pid in members(self.run, role).values()]
            if not alive:
                return left
            if time.monotonic() > deadline - 4:  # They die with their supervisor; give them the time.
                left += len(alive)
                for pid in alive:
                    send(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"processes of {self.run} do not die: {alive}")

    def output(self):
        self._output.flush()
        self._output.seek(0)
        return self._output.read()

    def close(self):
        self._output.close()


class Mpirun(Supervised):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, command=cluster.mpirun_command, **more)

    def kill_everything(self):
        for role in PROGRAMS:
            for pid in members(self.run, role).values():
                send(pid, signal.SIGKILL)
        super().kill_everything()


class Local(Supervised):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, local=True, **more)


class ByHand:
    """The role programs, each behind a proxy, restarted here when a signal ended them."""
    supervised = False
    RESTARTS_MAX = 40
    MISSED_SECONDS = 3  # After a member left in order.

    def __init__(self, job, run, workspace, sets, servers, workers, *, resume, environment):
        self.run = run
        self.proxies = proxy.Proxies()
        self._environment = {**os.environ, **environment}
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._common = [f"--job={job.file}", f"--run_dir={run}", f"--servers={servers}", f"--workers={workers}",
                        "--quiet", *map(str, job.overrides(workspace, **sets))]
        self._commands = {}
        self._processes = {}
        self._restarts = 0
        self._code = None
        self._left = {}  # When, by member.
        port, reached = self._address("scheduler")
        self._commands["scheduler", 0] = [f"--listen=tcp://127.0.0.1:{port}", "--http_address=127.0.0.1:0"]
        at = f"--scheduler=tcp://127.0.0.1:{reached}"
        for index in range(servers):
            port, reached = self._address(f"server {index}")
            self._commands["server", index] = [at, f"--index={index}", f"--listen=tcp://127.0.0.1:{port}",
                                               f"--advertise=tcp://127.0.0.1:{reached}"]
        for index in range(workers):
            self._commands["worker", index] = [at, f"--index={index}"]
        for member in self._commands:
            self._start(member, ["--resume"] if resume and member[0] == "scheduler" else [])

    def _address(self, name):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return port, self.proxies.add(name, port)

    def _start(self, member, more):
        self._processes[member] = subprocess.Popen(
            [str(cluster.BIN / PROGRAMS[member[0]]), *self._common, *self._commands[member], *more],
            stdout=self._output, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True)

    def poll(self):
        if self._code is not None:
            return self._code
        for member, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            if code < 0 and self._restarts < self.RESTARTS_MAX:
                self._restarts += 1
                self._start(member, ["--resume"] if member[0] == "scheduler" else [])
            elif member[0] == "scheduler":
                self._end()
                self._code = code
                return code
            elif code == 0 and time.monotonic() - self._left.setdefault(member, time.monotonic()) > self.MISSED_SECONDS:
                # The scheduler is still there: it was killed behind its last word, and does not know that it said it.
                del self._left[member]
                self._start(member, [])
        return None

    def _end(self):
        """Of the members, once the scheduler has gone."""
        deadline = time.monotonic() + 15
        for process in self._processes.values():
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)

    def kill_everything(self):
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(timeout=20)
        self._code = -signal.SIGKILL

    def sweep(self):
        return 0

    def output(self):
        self._output.flush()
        self._output.seek(0)
        return self._output.read()

    def close(self):
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(timeout=20)
        self.proxies.close()
        self._output.close()


KINDS = {"supervised": Supervised, "mpirun": Mpirun, "local": Local, "by_hand": ByHand}


def who_waits(run, output):
    """For a hang: what the scheduler and the members say, and where their threads are."""
    lines = ["--- output ---", output[-3000:]]
    for role in PROGRAMS:
        for index, pid in sorted(members(run, role).items()):
            try:
                state = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split(")")[-1].split()[0]
            except OSError:
                state = "gone"
            lines.append(f"--- {role} {index} (pid {pid}), state {state}")
    for place in [run / "metrics.jsonl", *sorted((run / "logs").glob("*.INFO"))]:
        try:
            lines += [f"--- {place.name} ---", *place.read_text(errors="replace").splitlines()[-12:]]
        except OSError:
            pass
    lines += ["--- /status ---", _status(run)]
    return "\n".join(lines)


def _status(run):
    try:
        for member in jobs.json.loads((run / "members.json").read_text()):
            if member["role"] == "scheduler" and member.get("http"):
                done = subprocess.run(["curl", "-s", "-m", "2", f"http://{member['http']}/status"],
                                      capture_output=True, text=True, check=False, timeout=5)
                return done.stdout[:4000]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        pass
    return "nobody answers"
