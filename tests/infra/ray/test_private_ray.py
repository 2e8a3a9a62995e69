"""A cluster that starts here listens on loopback only, keeps its files where nobody else gets, and can be joined."""

import contextlib
import ipaddress
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.errors import UserError
from infra.ray.cluster import ray_session
from infra.ray.private import OTHERS, only_on_loopback, private_folder, private_ray

JOIN = """
import sys
from infra.ray.cluster import ray_session
with ray_session(sys.argv[1]) as cluster:
    import ray
    print(cluster.started, ray.get(ray.remote(lambda: 42).remote()))
"""


def session_processes() -> list[psutil.Process]:
    """This process and what it started."""
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def listening(processes) -> set[str]:
    """The addresses that any of the processes listens on."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("inet")
            found |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


def is_loopback(ip: str) -> bool:
    return ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback


def modes_above(folder: Path) -> list[int]:
    return [stat.S_IMODE(parent.stat().st_mode) for parent in (folder, *folder.parents)]


@pytest.fixture(scope="module")
def cluster():
    with ray_session("local", num_cpus=1, num_gpus=0) as cluster:
        yield cluster


@pytest.mark.cluster
def test_a_local_session_listens_on_loopback_only(cluster):
    import ray

    ray.get(ray.remote(num_cpus=0)(lambda: None).remote())  # with a worker's process
    processes = session_processes()
    names = " ".join(process.name() for process in processes)
    assert "raylet" in names
    assert "gcs_server" in names
    found = listening(processes)
    assert found
    assert all(is_loopback(ip) for ip in found), found
    assert only_on_loopback(cluster.address)
    assert only_on_loopback("auto")


@pytest.mark.cluster
def test_its_folder_is_within_one_that_only_its_user_enters(cluster):
    import ray

    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    assert any(not mode & OTHERS for mode in modes_above(folder)), folder
    assert list(folder.glob("logs/raylet*"))


@pytest.mark.cluster
def test_no_dashboard_runs(cluster):
    commands = [" ".join(process.cmdline()) for process in session_processes()]
    assert not [command for command in commands if "dashboard/dashboard.py" in command]


@pytest.mark.cluster
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_process_joins_it_by_address_and_runs_a_task(cluster, host):
    address = cluster.address.replace("127.0.0.1", host)
    done = subprocess.run([sys.executable, "-c", JOIN, address], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False 42\n", done.stdout + done.stderr


@pytest.mark.cluster
@pytest.mark.slow
def test_a_demos_nodes_listen_on_loopback_only_and_another_process_joins_them():
    """In a process of its own: this one may have a session."""
    program = (
        "import subprocess, sys\n"
        "from motiondirector.demo.nodes import local_nodes\n"
        "from test_private_ray import JOIN, listening, session_processes\n"
        "with local_nodes(1) as nodes:\n"
        "    print(*listening(session_processes()))\n"
        "    print(subprocess.run([sys.executable, '-c', JOIN, nodes.address], capture_output=True, text=True).stdout)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    addresses, joined = done.stdout.split("\n", 1)
    assert addresses, done.stderr[-3000:]
    assert all(is_loopback(ip) for ip in addresses.split()), addresses
    assert joined.strip() == "False 42", done.stderr[-3000:]


def test_nobody_listens_at_the_address_of_a_cluster_that_is_elsewhere():
    assert not only_on_loopback("192.0.2.1:6379")
    assert not only_on_loopback("ray://127.0.0.1:10001")


@pytest.fixture
def base(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def test_the_folder_is_made_for_its_user_only_and_one_that_was_open_is_closed(base):
    folder = private_folder()
    assert folder.parent == base
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert private_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_session_within_a_session_has_the_same_folder_and_the_environment_is_left_as_it_was(base):
    with private_ray():
        outer = os.environ["RAY_TMPDIR"]
        with private_ray():
            assert os.environ["RAY_TMPDIR"] == outer == str(private_folder())
    assert os.environ["RAY_TMPDIR"] == str(base)


@pytest.mark.skipif(sys.platform != "linux", reason="loopback has another name elsewhere")
@pytest.mark.parametrize(("set_before", "within"), [(None, "lo"), ("eth7", "eth7")])
def test_gloo_is_told_to_use_loopback_unless_its_user_says_otherwise(base, monkeypatch, set_before, within):
    name = "GLOO_SOCKET_IFNAME"
    monkeypatch.delenv(name, raising=False)
    if set_before:
        monkeypatch.setenv(name, set_before)
    with private_ray():
        assert os.environ[name] == within
    assert os.environ.get(name) == set_before


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_of_this_user_is_refused(base, kind, tmp_path_factory):
    place = base / f"ray-{os.geteuid()}"
    if kind == "link":
        place.symlink_to(tmp_path_factory.mktemp("others"))
    else:
        place.touch()
    with pytest.raises(UserError, match="is not a folder of this user") as caught, private_ray():
        raise AssertionError
    assert caught.value.code == "access_denied"
