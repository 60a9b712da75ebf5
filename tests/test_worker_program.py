"""The worker as people start it without our command line: plain `celery -A`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import drive, witness
from loadtests.site import KEYS, Site
from tests.servers import rabbit_server

CELERY = [sys.executable, "-m", "celery", "-A", "llmgine_workers.worker", "worker"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installation without workers: the tests start their own."""
    folder = tmp_path_factory.mktemp("site")
    rabbit = rabbit_server(folder / "rabbit")
    site = Site(folder, slots=50, simulator=(), workers=(), rabbit=rabbit)
    try:
        site.start()
        yield site
    finally:
        site.stop()


def started(
    site: Site, folder: Path, pool: str, *options: str
) -> subprocess.Popen[bytes]:
    """A plain Celery worker in a folder, told everything by variables."""
    settings = (site.folder / "llmgine.toml").read_text()
    (folder / "llmgine.toml").write_text(settings)
    log = (folder / "worker.log").open("ab")
    return subprocess.Popen(
        [*CELERY, "-Q", f"llmgine.{pool}", *options],
        cwd=folder,
        env={**os.environ, **KEYS},
        stdout=log,
        stderr=log,
    )


@pytest.mark.integration
async def test_plain_celery_runs_jobs_with_our_pool_and_with_threads(
    site: Site, tmp_path: Path
) -> None:
    workers = []
    for pool, options in (("openai", ()), ("anthropic", ("-P", "threads", "-c", "20"))):
        folder = tmp_path / pool
        folder.mkdir()
        workers.append(started(site, folder, pool, *options))
    try:
        posted = await drive.post(site, 10, per_s=50, seed=3)
        await drive.until(
            lambda: witness.all_ended(site, posted), "all jobs ended", within_s=60
        )
        verdict = await witness.judge(site, posted)
        assert verdict.holds, verdict
        assert len(posted.jobs) == 10
    finally:
        for worker in workers:
            worker.terminate()
        assert [worker.wait(60) for worker in workers] == [0, 0]


def test_a_foreign_chains_package_is_named_and_stops_the_worker(tmp_path: Path) -> None:
    (tmp_path / "chains").mkdir()
    (tmp_path / "chains" / "__init__.py").write_text("")
    done = subprocess.run(
        [*CELERY, "-Q", "llmgine.openai"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 78
    assert f"the package `chains` at {tmp_path}/chains hides" in done.stderr
    assert "Traceback" not in done.stderr
