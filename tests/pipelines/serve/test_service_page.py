"""The service in a real Ray Serve: as clients see it, and as people see it in a browser."""

import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import pytest

from daefr.errors import UserError
from daefr.images import decode_image, encode_png
from daefr.restore import Restorer
from pipelines.commands.serve import open_service
from pipelines.config import load_config
from pipelines.engine.run import open_tracking, open_workdir
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from tests.daefr import tiny
from tests.daefr.photographs import WEIGHTS, needs_detector, photograph
from tests.e2e.command import TINY

CHROMIUM = Path("/usr/bin/chromium")
TOKEN = "0123456789abcdef0123456789abcdef"
MAX_BYTES, MAX_PIXELS = 300_000, 400_000

needs_chromium = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"there is no Chromium at {CHROMIUM}")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The one sentence of a refusal."""
        content = json.loads(self.body)
        assert list(content) == ["error"]
        return str(content["error"])


@dataclass(frozen=True)
class Service:
    port: int
    tracking: Tracking
    versions: list[registry.Version]
    checkpoints: list[Path]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {"authorization": f"Bearer {TOKEN}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def restore(self, image: bytes, query: str = "aligned=true", **headers: str) -> Answer:
        return self.ask("POST", f"/restore?{query}", image, **headers)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The champion of three versions in service: the first. Without a detector, crops only."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "token").write_text(TOKEN)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    weights = f"restore.detector={WEIGHTS}" if WEIGHTS.is_file() else "restore.aligned=true"
    config = load_config(
        TINY,
        [f"workdir={folder / 'run'}", f"serve.port={port}", f"serve.token={folder / 'token'}", weights,
         f"serve.max_upload_bytes={MAX_BYTES}", f"serve.max_pixels={MAX_PIXELS}", "serve.batch_wait_timeout_s=0.1",
         "serve.poll_interval_s=0.5", "serve.upload_timeout_s=3"],
    )  # fmt: skip
    tracking = open_tracking(config.tracking, open_workdir(config.workdir), 0)
    versions, checkpoints = [], []
    for number in range(3):
        checkpoints.append(tiny.checkpoint(folder / f"{number}", tiny.build("restoration", seed=number)).path)
        run_id = tracking.start_run(f"{number}", f"{number}")
        versions.append(
            registry.register(tracking, "restoration", checkpoints[-1], run_id, fingerprint=f"{number}", tags={})
        )
    _promote(tracking, versions[0])
    with open_service(config).started() as address:
        assert address == f"http://127.0.0.1:{port}/"
        yield Service(port, tracking, versions, checkpoints)


def _promote(tracking: Tracking, version: registry.Version) -> None:
    registry.move_alias(tracking, version.name, registry.CHAMPION, version.number)


def _crop(seed: int = 0) -> bytes:
    return encode_png(tiny.face(np.random.default_rng(seed), 24))


def test_a_crop_becomes_what_the_library_makes_of_it(service: Service) -> None:
    answer = service.restore(_crop(), content_type="image/png")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["x-model"] == service.versions[0].address
    assert answer.headers["x-face-count"] == "1"
    assert answer.body == Restorer.load(service.checkpoints[0], "cpu")(_crop(), aligned=True).png()


@needs_detector
def test_a_photograph_becomes_what_the_library_makes_of_it(service: Service) -> None:
    data = encode_png(photograph(side=300, zoom=0.4)[0])
    answer = service.restore(data, "", content_type="image/png")
    assert answer.status == 200, answer.body
    restored = Restorer.load(service.checkpoints[0], "cpu", WEIGHTS)(data)
    assert answer.body == restored.png()
    (face,) = restored.faces
    assert json.loads(answer.headers["x-faces"]) == [[round(float(edge)) for edge in face.box]]

    sky = encode_png(np.full((90, 120, 3), 200, np.uint8))
    unchanged = service.restore(sky, "")
    assert unchanged.headers["x-face-count"] == "0"
    assert np.array_equal(decode_image(unchanged.body), decode_image(sky))


def test_the_first_of_several_pages_is_restored_and_the_answer_says_so(service: Service) -> None:
    first, *others = [PIL.Image.open(io.BytesIO(_crop(seed))) for seed in range(3)]
    pages = io.BytesIO()
    first.save(pages, "TIFF", save_all=True, append_images=others)
    answer = service.restore(pages.getvalue())
    assert (answer.status, answer.headers["x-pages-left"]) == (200, "2")
    assert answer.body == service.restore(_crop(0)).body


def test_a_form_is_as_good_as_a_body(service: Service) -> None:
    edge = b"--edge\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n"
    body = edge + _crop() + b"\r\n--edge--\r\n"
    answer = service.restore(body, content_type="multipart/form-data; boundary=edge")
    assert answer.body == service.restore(_crop()).body


def test_invalid_images_are_rejected(service: Service) -> None:
    large = encode_png(np.zeros((700, 700, 3), np.uint8))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    for image, query, status, part in [
        (b"", "", 400, "image"),
        (_crop(), "aligned=perhaps", 400, "aligned: "),
        (svg, "aligned=1", 415, "image"),
        (b"x" * (MAX_BYTES + 1), "aligned=1", 413, f"{MAX_BYTES} bytes"),
        (large, "aligned=1", 413, str(MAX_PIXELS)),
        (_crop()[:-30], "aligned=1", 422, ""),
        (encode_png(np.zeros((9, 16, 3), np.uint8)), "aligned=1", 422, "16x9"),
    ]:
        answer = service.restore(image, query)
        assert answer.status == status, answer.body
        assert part in answer.error
    assert service.ask("GET", "/nowhere").status == 404
    assert "POST /restore" in service.ask("GET", "/restore").error


def test_a_client_that_sends_too_large_a_body_reads_the_response(service: Service) -> None:
    chunk, number = b"x" * 100_000, 200
    chunked = service.ask("POST", "/restore", (chunk for _ in range(number)))
    of_known_length = service.ask("POST", "/restore", chunk * number)
    for answer in (chunked, of_known_length):
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        assert f"{MAX_BYTES} bytes" in answer.error


def test_only_the_page_and_the_health_need_no_token(service: Service) -> None:
    for method, path in (("POST", "/restore"), ("GET", "/metrics")):
        for header in ("", "Bearer wrong"):
            answer = service.ask(method, path, _crop(), authorization=header)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "token" in answer.error
    assert service.ask("GET", "/", authorization="").status == 200
    assert json.loads(service.ask("GET", "/health", authorization="").body)["status"] == "ok"


def test_requests_at_the_same_time_are_batched_and_nothing_of_them_is_kept(service: Service) -> None:
    images = [_crop(seed) for seed in range(40)]
    restorer = Restorer.load(service.checkpoints[0], "cpu")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(service.restore, images))
    assert [answer.status for answer in answers] == [200] * 40
    for image, answer in zip(images, answers, strict=True):
        alone = restorer(image, aligned=True).image
        # a batch may be computed in another order, which can tip a value from one of 256 levels to the next
        assert np.abs(decode_image(answer.body).astype(int) - alone.astype(int)).max() <= 1
    health = json.loads(service.ask("GET", "/health").body)
    assert health["faces"] >= 40
    assert health["batches"] < health["faces"] / 2


def test_the_api_describes_itself(service: Service) -> None:
    described = json.loads(service.ask("GET", "/openapi.json").body)
    restore = described["paths"]["/restore"]["post"]
    assert {"200", "400", "401", "413", "415", "422", "503"} <= set(restore["responses"])
    assert "image/*" in restore["requestBody"]["content"]
    assert {parameter["name"] for parameter in restore["parameters"]} == {"aligned", "only_center_face"}


def test_metrics_have_the_format_of_prometheus(service: Service) -> None:
    assert service.restore(_crop()).status == 200
    model = f'model="{service.versions[0].address}"'.encode()
    body = _until(
        lambda: service.ask("GET", "/metrics").body, lambda body: model in body and b"daefr_faces" in body, 60
    )
    assert b"ray_serve_actual_batch_size_bucket" in body


def _until(look: Any, holds: Any, seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not holds(seen := look()):
        assert time.monotonic() < end, seen
        time.sleep(0.2)
    return seen


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        yield chromium
        chromium.close()


def _open(browser: Any, service: Service, **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)  # other tests run beside this one
    page.faults = []
    page.on("filechooser", lambda _: None)  # intercepted from the start: expect_file_chooser alone races the key press
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith((service.url, "blob:", "data:")) or page.faults.append(request.url),
    )
    page.goto(service.url)
    return page


@needs_chromium
@needs_detector
def test_the_page_restores_with_the_keyboard_alone(service: Service, browser: Any, tmp_path: Path) -> None:
    image = tmp_path / "my photo.jpg"
    cv2.imwrite(str(image), photograph(side=300, zoom=0.4)[0][:, :, ::-1])
    page = _open(browser, service)
    page.get_by_text(f"Model: {service.versions[0].address}").wait_for()

    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(image)
    token = page.get_by_label("This service requires a token")
    token.wait_for()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("wrong token").wait_for()
    token.fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("1 face restored").wait_for()

    slider = page.get_by_role("slider", name="How much of the original photograph is shown")
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "100"
    mark = page.get_by_role("checkbox", name="Mark the faces found: 1")
    mark.focus()
    page.keyboard.press("Space")
    assert page.locator("#marks i").count() == 1
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").press("Enter")
    assert download.value.suggested_filename == "my photo-restored.png"
    expected = service.restore(image.read_bytes(), "").body
    assert Path(download.value.path()).read_bytes() == expected
    assert page.faults == []


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_takes_what_is_dropped(service: Service, browser: Any, scheme: str) -> None:
    page = _open(browser, service, viewport={"width": 320, "height": 640}, color_scheme=scheme, has_touch=True)
    page.evaluate(f"sessionStorage.setItem('token', '{TOKEN}')")
    page.reload()
    page.get_by_label("It is an aligned crop of one face").check()
    transfer = page.evaluate_handle(
        "data => { const t = new DataTransfer(); t.items.add(new File([new Uint8Array(data)], 'x.png')); return t; }",
        list(_crop()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.get_by_role("status").get_by_text("1 face restored").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for control in page.locator("label, button, a, input[type=range]").all():
        if control.is_visible():
            assert control.bounding_box()["height"] >= 44, "large enough for a finger"

    for kind in ("ink", "soft", "accent", "wrong"):
        assert _contrast(page, kind) >= 4.5
    page.get_by_label("It is an aligned crop of one face").uncheck()
    page.locator("#file").set_input_files({"name": "x.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"})
    page.get_by_text("not a readable image").or_(page.get_by_text("aligned crops only")).wait_for()
    assert not page.locator("#result").is_visible()
    assert page.faults == []


def _contrast(page: Any, kind: str) -> float:
    """The contrast of a colour of the page with its ground, as WCAG defines it."""

    def luminance(name: str) -> float:
        value = page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')").strip()
        digits = value[1:] if len(value) == 7 else "".join(2 * digit for digit in value[1:])
        channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(kind), luminance("ground")), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_new_champion_takes_over_and_a_broken_one_does_not(service: Service) -> None:
    """The last test: the others are of the first version."""
    _promote(service.tracking, service.versions[1])
    new = service.versions[1].address
    _until(lambda: service.restore(_crop()).headers["x-model"], lambda name: name == new)
    expected = Restorer.load(service.checkpoints[1], "cpu")(_crop(), aligned=True).png()
    assert service.restore(_crop()).body == expected

    (Path(service.versions[2].source.removeprefix("file://")) / "model.safetensors").write_bytes(b"")
    _promote(service.tracking, service.versions[2])
    health = _until(lambda: json.loads(service.ask("GET", "/health").body), lambda health: health["problem"])
    assert (health["status"], health["model"]) == ("degraded", new)
    assert "damaged" in health["problem"]
    assert service.restore(_crop()).body == expected


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("serve.host=0.0.0.0", "serve.token"),
        ("serve.max_upload_bytes=10000000000", "max_queued_bytes"),
        ("restore.model=models:/daefr-restoration@best", "daefr-restoration"),
    ],
)
def test_configuration_errors_come_before_anything_is_started(override: str, key: str, tmp_path: Path) -> None:
    overrides = [f"workdir={tmp_path}", "restore.aligned=true", "serve.port=65011", override]
    with pytest.raises(UserError, match=key), open_service(load_config(TINY, overrides)).started():
        pass
