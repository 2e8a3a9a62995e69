"""The committed OpenAPI document is what the server answers. `python tests/serving/http/test_openapi.py` writes it anew."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "openapi.json"
sys.path[:0] = [str(ROOT), str(Path(__file__).parents[1])]

from fakes import FakeEngine  # noqa: E402

from serving.config import ServeConfig  # noqa: E402
from serving.http.api import create_api  # noqa: E402
from serving.http.service import VideoService  # noqa: E402


def generated() -> str:
    with tempfile.TemporaryDirectory() as folder:
        service = VideoService(ServeConfig(data_dir=folder), FakeEngine())
        document = create_api(service).openapi()
        service.store.close()
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_document_is_that_of_the_routes():
    assert generated() == DOCUMENT.read_text(), f"python {Path(__file__).relative_to(ROOT)} writes it anew"


if __name__ == "__main__":
    DOCUMENT.write_text(generated())
