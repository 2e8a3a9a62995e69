"""A small client of the API, based on httpx; raises the server's refusals as `UserError`.

with Client("http://127.0.0.1:8000") as client:
    video = client.wait(client.create(CreateVideo(prompt="a red square", model="foundation:orbit")).id)
    open("out.mp4", "wb").write(client.content(video.id))
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from infra.errors import Conflict, Unavailable, UserError
from serving.config import is_loopback
from serving.http.statuses import class_of
from serving.schemas import AdapterAnswer, Character, CreateVideo, LoraPath, ModelList, ResidentList, Video
from serving.training_client import TrainingCalls, opened

QUEUED_INTERVAL = 1.0  # minimum seconds between polls of `wait` for a video that is not first in the queue


class Client(TrainingCalls):
    """Talks to one server.

    Args:
        url: of the server, such as http://127.0.0.1:8000.
        api_key: sent as a bearer token when given.
        patience: seconds that `wait` tolerates a server that is unavailable, such as during a restart.
        transport: httpx transport, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        patience: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        host = urlsplit(url).hostname
        if not url.startswith(("http://", "https://")) or not host:
            raise UserError(f"--server {url!r} is not a URL; expected one such as http://127.0.0.1:8000.")
        self.url, self._patience = url.rstrip("/"), patience
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(60.0, connect=10.0),
            trust_env=not is_loopback(host),  # no proxy between this machine and itself
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def create(
        self, body: CreateVideo, *, image: Path | None = None, idempotency_key: str | None = None
    ) -> Video:
        """Request a video; returns the queued job. The same key and body return the same job.

        Args:
            image: a file with the image of `input_reference`.
        """
        sent = body.model_dump(mode="json", exclude_none=True)
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        if image is None:
            return Video.model_validate(self._call("POST", "/v1/videos", json=sent, headers=headers).json())
        caption = sent.pop("input_reference", {}).get("caption")
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in sent.items()}
        form |= {} if caption is None else {"input_reference[caption]": caption}
        with opened(image) as content:
            files = {"input_reference": (image.name, content)}
            answer = self._call("POST", "/v1/videos", data=form, files=files, headers=headers)
        return Video.model_validate(answer.json())

    def create_character(
        self, name: str, video: Path, *, caption: str | None = None, idempotency_key: str | None = None
    ) -> Character:
        """Have the appearance of a clip learned, for requests that name it among their `characters`."""
        form = {"name": name, **({} if caption is None else {"caption": caption})}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        with opened(video) as content:
            files = {"video": (video.name, content)}
            answer = self._call("POST", "/v1/videos/characters", data=form, files=files, headers=headers)
        return Character.model_validate(answer.json())

    def character(self, id: str) -> Character:
        """A character, and how far it is learned."""
        return Character.model_validate(self._call("GET", f"/v1/videos/characters/{id}").json())

    def remix(self, id: str, prompt: str, *, idempotency_key: str | None = None) -> Video:
        """Request a video like another one, of another prompt; returns the queued job."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        sent = {"prompt": prompt}
        return Video.model_validate(
            self._call("POST", f"/v1/videos/{id}/remix", json=sent, headers=headers).json()
        )

    def retrieve(self, id: str) -> Video:
        """The current state of a job."""
        return Video.model_validate(self._call("GET", f"/v1/videos/{id}").json())

    def cancel(self, id: str) -> Video:
        """Stop a job."""
        return Video.model_validate(self._call("POST", f"/v1/videos/{id}/cancel").json())

    def delete(self, id: str) -> None:
        """Remove a job and its video."""
        self._call("DELETE", f"/v1/videos/{id}")

    def content(self, id: str) -> bytes:
        """The mp4 of a completed job."""
        return self._call("GET", f"/v1/videos/{id}/content").content

    def events(self, id: str, *, previews: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, data) of a job's events, until it ends."""
        params = {"previews": "true"} if previews else {}
        with self._http.stream("GET", f"/v1/videos/{id}/events", params=params) as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            name = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

    def prefetch(self, name: str, path: LoraPath | None = None) -> AdapterAnswer:
        """Load an adapter into memory in every engine.

        If the server has API keys, this, `pin` and `unpin` require one with the scope `adapters`.
        """
        return self._prepare("prefetch", name, path)

    def pin(self, name: str, path: LoraPath | None = None) -> AdapterAnswer:
        """Keep an adapter in a slot of every engine."""
        return self._prepare("pin", name, path)

    def unpin(self, name: str, path: LoraPath | None = None) -> AdapterAnswer:
        """Unpin an adapter, so that it can be evicted by least recent use again."""
        return self._prepare("unpin", name, path)

    def residents(self) -> ResidentList:
        """Which engine holds which adapters, and which are pinned."""
        return ResidentList.model_validate(self._call("GET", "/v1/adapters").json())

    def _prepare(self, action: str, name: str, path: LoraPath | None) -> AdapterAnswer:
        body = {"name": name, "path": path}
        return AdapterAnswer.model_validate(self._call("POST", f"/v1/adapters/{action}", json=body).json())

    def models(self) -> ModelList:
        """The valid values of `model`."""
        return ModelList.model_validate(self._call("GET", "/v1/models").json())

    def wait(
        self, id: str, on_progress: Callable[[Video], None] = lambda video: None, interval: float = 0.2
    ) -> Video:
        """Poll until the job has ended; raises UserError if it failed or was cancelled."""
        heard = time.monotonic()
        while True:
            try:
                video = self.retrieve(id)
                heard = time.monotonic()
            except Unavailable:
                if time.monotonic() - heard > self._patience:
                    raise
                time.sleep(1.0)
                continue
            on_progress(video)
            if video.status == "completed":
                return video
            if video.status in ("failed", "cancelled"):
                code = video.error.code if video.error else "cancelled"
                message = video.error.message if video.error else f"video {id} was cancelled."
                raise Conflict(message, code=code)
            time.sleep(max(interval, QUEUED_INTERVAL) if video.queue_position else interval)

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Unavailable(
                f"no server answers at {self.url} ({reason}); start one with `motiondirector serve`.",
                code="server_unreachable",
            ) from None
        if response.is_success:
            return response
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> UserError:
        try:
            body = response.json()["error"]
            message, code = str(body["message"]), str(body["code"])
        except (ValueError, KeyError, TypeError):
            message, code = (
                f"{self.url} answered {response.status_code} without an error message.",
                "bad_answer",
            )
        return class_of(response.status_code)(message, code=code)
