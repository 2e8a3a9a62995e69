"""The calls of `serving.client.Client` for files and trainings.

with Client("http://127.0.0.1:8000") as client:
    file = client.upload(Path("clips.zip"))
    job = client.train(CreateTraining(model="foundation", training_file=file.id, suffix="orbit", caption="a star circles"))
    model = client.wait_for_training(job.id, on_event=lambda event: print(event.message)).fine_tuned_model
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx

from infra.errors import Conflict, InvalidInput, UserError
from infra.files import atomic_file
from serving.trainings.schemas import (
    CompleteUpload,
    CreateTraining,
    CreateUpload,
    FileObject,
    TrainingEventObject,
    TrainingJob,
    UploadObject,
    UploadPartObject,
)

PART = 32 << 20  # bytes of a part that is sent
PAGE = 100


class TrainingCalls:
    """Files, uploads and trainings of one server."""

    _http: httpx.Client

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        raise NotImplementedError

    def _refusal(self, response: httpx.Response) -> UserError:
        raise NotImplementedError

    # ---------------------------------------------------------------------- files
    def upload(self, path: Path, *, keep_seconds: int | None = None) -> FileObject:
        """Upload a file to learn from: a video, a zip of videos, or JSONL rows.

        Args:
            keep_seconds: seconds after which the server deletes it; None: it stays.
        """
        form = {"purpose": "fine-tune"}
        if keep_seconds is not None:
            form |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(keep_seconds)}
        with opened(path) as content:
            sent = {"file": (path.name, content)}
            return FileObject.model_validate(self._call("POST", "/v1/files", data=form, files=sent).json())

    def upload_in_parts(
        self,
        path: Path,
        *,
        resume: str | None = None,
        part: int = PART,
        on_progress: Callable[[str, int, int], None] = lambda id, sent, total: None,
    ) -> FileObject:
        """Upload a large file in parts, each with its checksum.

        Args:
            resume: id of an upload of the same file that broke off; only what is missing is sent.
            part: bytes of a part; of an upload that is resumed, those it began with.
            on_progress: called with the upload's id, the bytes that the server has, and the file's.

        Raises:
            InvalidInput: the upload to resume is of another file.
        """
        size = opened_size(path)
        if resume is None:
            begun = CreateUpload(filename=path.name, purpose="fine-tune", bytes=size, mime_type="")
            upload = self._upload("", begun.model_dump(mode="json", exclude_none=True))
        else:
            upload = UploadObject.model_validate(self._call("GET", f"/v1/uploads/{resume}").json())
        if upload.status == "completed" and upload.file is not None:
            return upload.file
        if upload.bytes != size:
            raise InvalidInput(
                f"upload {upload.id} is of a file with {upload.bytes} bytes, but {path} has {size}; begin another upload."
            )
        there = {one.number: one for one in upload.parts}
        ids, sent = [], sum(one.bytes for one in upload.parts)
        with opened(path) as content:
            for number, piece in enumerate(iter(lambda: content.read(part), b"")):
                one = there.get(number)
                if one is None:
                    one = self._part(upload.id, number, piece)
                    sent += len(piece)
                elif one.sha256 != hashlib.sha256(piece).hexdigest():
                    raise InvalidInput(
                        f"part {number} of upload {upload.id} has other bytes than {path}; begin another upload."
                    )
                ids.append(one.id)
                on_progress(upload.id, sent, size)
        done = self._upload(
            f"/{upload.id}/complete", CompleteUpload(part_ids=ids).model_dump(exclude_none=True)
        )
        assert done.file is not None
        return done.file

    def _upload(self, path: str, body: dict[str, Any]) -> UploadObject:
        return UploadObject.model_validate(self._call("POST", f"/v1/uploads{path}", json=body).json())

    def _part(self, id: str, number: int, piece: bytes) -> UploadPartObject:
        form = {"number": str(number), "sha256": hashlib.sha256(piece).hexdigest()}
        sent = {"data": ("part", piece)}
        answer = self._call("POST", f"/v1/uploads/{id}/parts", data=form, files=sent)
        return UploadPartObject.model_validate(answer.json())

    def cancel_upload(self, id: str) -> None:
        """Give up an upload, with its parts."""
        self._call("POST", f"/v1/uploads/{id}/cancel")

    def files(self) -> Iterator[FileObject]:
        """All files, newest first."""
        return (FileObject.model_validate(one) for one in self._pages("/v1/files"))

    def file(self, id: str) -> FileObject:
        """Name and size of a file."""
        return FileObject.model_validate(self._call("GET", f"/v1/files/{id}").json())

    def download(self, id: str, path: Path) -> None:
        """Save the bytes of a file."""
        with self._http.stream("GET", f"/v1/files/{id}/content") as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            with atomic_file(path) as temporary, temporary.open("wb") as target:
                for piece in response.iter_bytes():
                    target.write(piece)

    def delete_file(self, id: str) -> None:
        """Delete a file."""
        self._call("DELETE", f"/v1/files/{id}")

    # ------------------------------------------------------------------ trainings
    def train(self, body: CreateTraining, *, idempotency_key: str | None = None) -> TrainingJob:
        """Start a training. The same key and body return the same one."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        sent = body.model_dump(mode="json", exclude_none=True)
        answer = self._call("POST", "/v1/fine_tuning/jobs", json=sent, headers=headers)
        return TrainingJob.model_validate(answer.json())

    def training(self, id: str) -> TrainingJob:
        """State and progress of a training."""
        return TrainingJob.model_validate(self._call("GET", f"/v1/fine_tuning/jobs/{id}").json())

    def trainings(self) -> Iterator[TrainingJob]:
        """All trainings, newest first."""
        return (TrainingJob.model_validate(one) for one in self._pages("/v1/fine_tuning/jobs"))

    def cancel_training(self, id: str) -> TrainingJob:
        """Stop a training."""
        return TrainingJob.model_validate(self._call("POST", f"/v1/fine_tuning/jobs/{id}/cancel").json())

    def pause_training(self, id: str) -> TrainingJob:
        """Let a training rest."""
        return TrainingJob.model_validate(self._call("POST", f"/v1/fine_tuning/jobs/{id}/pause").json())

    def resume_training(self, id: str) -> TrainingJob:
        """Let a paused training go on."""
        return TrainingJob.model_validate(self._call("POST", f"/v1/fine_tuning/jobs/{id}/resume").json())

    def follow(self, id: str, after: str | None = None) -> Iterator[TrainingEventObject]:
        """The events of a training, from the one after `after`, until it ends."""
        params = {"stream": "true", **({} if after is None else {"after": after})}
        with self._http.stream("GET", f"/v1/fine_tuning/jobs/{id}/events", params=params) as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield TrainingEventObject.model_validate(json.loads(line.removeprefix("data: ")))

    def wait_for_training(
        self, id: str, on_event: Callable[[TrainingEventObject], None] = lambda event: None
    ) -> TrainingJob:
        """Follow a training to its end. Raises Conflict if it failed or was cancelled."""
        for event in self.follow(id):
            on_event(event)
        job = self.training(id)
        if job.status != "succeeded":
            code = job.error.code if job.error else "cancelled"
            raise Conflict(job.error.message if job.error else f"training {id} was cancelled.", code=code)
        return job

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={"limit": PAGE, **after}).json()
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["data"][-1]["id"]}


def opened(path: Path) -> IO[bytes]:
    """A local file to send. Raises InvalidInput."""
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror}); give a file.", code="file_not_found"
        ) from None


def opened_size(path: Path) -> int:
    """Bytes of a local file. Raises InvalidInput."""
    with opened(path) as content:
        return content.seek(0, 2)
