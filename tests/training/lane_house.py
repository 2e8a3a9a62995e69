"""A registry with a batch, and lanes for it in this process."""

from infra.registry import open_registry
from models.adapters.file import read_adapter
from training.batch.lane.lane import Lane
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.manifest.resolving import Sources
from training.batch.run import enter
from training.batch.state.state import open_batch
from training.batch.watch.watcher import Watcher

WAN = "tiny-random:wan"
SETTINGS = {
    "frames": 5,
    "height": 32,
    "width": 32,
    "steps": 4,
    "rank": 4,
    "checkpoint_interval": 2,
    "learning_rate": 1e-3,
}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class House:
    """A registry with a batch, and lanes for it."""

    def __init__(self, folder, clips, monkeypatch, foundation):
        self.registry = open_registry(folder / "registry")
        self.clips, self.clock, self.sources = clips, Clock(), Sources()
        self.batch = self.state()
        monkeypatch.setattr("training.batch.lane.lane.load_foundation", lambda source, **options: foundation)

    def state(self):
        return open_batch(self.registry.storage, "b", clock=self.clock)

    def add(self, *concepts, priority=0, publish_as=None, **settings):
        entries = [
            Entry(c, self.clips, WAN, publish_as, priority, settings={**SETTINGS, **settings})
            for c in concepts
        ]
        plan = make_plan(entries, "m", self.registry, sources=self.sources)
        enter(self.batch, plan, {"manifest": "m"})
        return {work.name: work for work in plan.works}

    def lane(self, watcher=None, **options):
        options = {"every_s": 3600, "device": "cpu", "prepare_ahead": False, **options}
        self.last = Lane(self.state(), self.registry, watcher=watcher, **options)
        return self.last

    def statuses(self):
        return {record.name: record.status for record in self.batch.records()}

    def adapter(self, ref, folder):
        return read_adapter(self.registry.pull(self.registry.resolve(ref), folder)).tensors


class Hook(Watcher):
    """Calls `act(name, step)` after each step."""

    def __init__(self, act):
        self.act, self.records, self.steps = act, [], []

    def stepped(self, name, report):
        self.steps.append((name, report.step))
        self.act(name, report.step)

    def ended(self, record):
        self.records.append(record)


def nothing(_name, _step):
    pass
