"""What the table of trainings says of them for people: their losses, what happened to them, how long a step takes."""

from __future__ import annotations

from statistics import median

from sqlalchemy import select

from serving.jobs.database import Database
from serving.jobs.training_tables import Training, TrainingEvent
from serving.trainings.store import SUCCEEDED

MEASURED = 5  # newest trainings whose pace is used


class Figures:
    """Reads the figures of one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._session = database.sessions

    def losses(self, id: str) -> list[tuple[int, float]]:
        """(step, loss) of a training's events, in their order; the step falls where a lane that died was replaced."""
        query = select(TrainingEvent.data).where(
            TrainingEvent.training == id, TrainingEvent.kind == "metrics"
        )
        with self._session() as session:
            found = session.scalars(query.order_by(TrainingEvent.place))
            shown = [(data.get("step"), data.get("train_loss")) for data in found]
        return [
            (step, float(loss))
            for step, loss in shown
            if isinstance(step, int) and isinstance(loss, int | float)
        ]

    def messages(self, id: str, most: int) -> list[TrainingEvent]:
        """The newest events of a training that say something, newest first; not its metrics."""
        query = select(TrainingEvent).where(TrainingEvent.training == id, TrainingEvent.kind != "metrics")
        with self._session() as session:
            return list(session.scalars(query.order_by(TrainingEvent.place.desc()).limit(most)))

    def seconds_per_step(self, foundation: str) -> float | None:
        """How long a step of a training takes here, all that belongs to it included; None if none has been measured.

        It is the median of this server's newest trainings, of all tenants.
        """
        columns = (Training.started_at, Training.finished_at, Training.step)
        measured = (
            Training.foundation == foundation,
            Training.state == SUCCEEDED,
            Training.started_at.is_not(None),
            Training.step > 0,
        )
        query = select(*columns).where(*measured).order_by(Training.number.desc()).limit(MEASURED)
        with self._session() as session:
            rows = session.execute(query).tuples().all()
        paces = [(end - start) / step for start, end, step in rows if start is not None and end is not None]
        return median(paces) if paces else None
