"""Row 19: nobody is dead but by silence that this scheduler itself has observed."""

from __future__ import annotations

from uuid import UUID

import pytest

from llmgine_workers.engine.watch import Watch
from llmgine_workers.ledger.workers import Observed

SERVER = "2026-11-20 12:00:00+00"
WORKER, OTHER = UUID(int=1), UUID(int=2)


class Scene:
    """A watch that polls each second of a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch = Watch(clock=lambda: self.now)
        self.beats = {WORKER: 0}
        self.server = SERVER

    def poll(self) -> set[UUID]:
        observed = [Observed(id_, "openai", n) for id_, n in self.beats.items()]
        return {one.id for one in self.watch.poll(self.server, observed)}

    def run(self, seconds: float, *, every_s: float = 1.0) -> set[UUID]:
        """Poll for so long; who was found dead."""
        dead = self.poll()
        end = self.now + seconds
        while self.now < end:
            self.now += every_s
            dead |= self.poll()
        return dead


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_fifteen_seconds_of_silence_are_death(scene: Scene) -> None:
    assert scene.run(14) == set()
    assert scene.run(1) == {WORKER}


def test_a_beat_begins_the_silence_anew(scene: Scene) -> None:
    scene.run(14)
    scene.beats[WORKER] += 1
    assert scene.run(14) == set()
    assert scene.run(1) == {WORKER}


def test_silence_counts_from_when_the_row_was_first_seen(scene: Scene) -> None:
    """A worker that claims and dies before its first observed beat is found too."""
    scene.run(10)
    scene.beats = {WORKER: 0, OTHER: 0}
    for _ in range(14):
        scene.beats[WORKER] += 1
        scene.now += 1
        assert scene.poll() == set()
    scene.now += 1
    scene.beats[WORKER] += 1
    scene.poll()
    scene.now += 1
    scene.beats[WORKER] += 1
    assert scene.poll() == {OTHER}


def test_an_outage_of_the_ledger_kills_nobody(scene: Scene) -> None:
    scene.run(14)
    scene.watch.forget()  # a poll failed
    scene.now += 2
    assert scene.run(14) == set()
    assert scene.run(1) == {WORKER}


def test_a_restarted_server_kills_nobody(scene: Scene) -> None:
    scene.run(14)
    scene.now += 1
    scene.server = "2026-11-20 12:00:20+00"
    assert scene.run(14) == set()


def test_a_scheduler_that_was_away_itself_kills_nobody(scene: Scene) -> None:
    """Frozen, suspended or starved: its own silence says nothing about a worker."""
    scene.run(14)
    scene.now += 60
    assert scene.poll() == set()
    assert scene.run(14) == set()
    assert scene.run(1) == {WORKER}


def test_two_seconds_between_polls_are_still_watching(scene: Scene) -> None:
    assert scene.run(16, every_s=2.0) == {WORKER}


def test_rare_polls_never_see_enough(scene: Scene) -> None:
    assert scene.run(120, every_s=4.0) == set()


def test_a_new_scheduler_begins_with_nothing(scene: Scene) -> None:
    scene.run(14)
    later = Watch(clock=lambda: scene.now)
    scene.now += 5
    assert later.poll(SERVER, [Observed(WORKER, "openai", 0)]) == []


def test_a_worker_that_left_is_forgotten(scene: Scene) -> None:
    scene.run(14)
    scene.beats = {}
    scene.now += 1
    scene.poll()
    scene.beats = {WORKER: 0}
    assert scene.run(14) == set()


def test_one_death_says_nothing_about_the_others(scene: Scene) -> None:
    scene.beats = {WORKER: 0, OTHER: 0}
    dead = scene.poll()
    for _ in range(20):
        scene.now += 1
        scene.beats[OTHER] += 1
        dead |= scene.poll()
    assert dead == {WORKER}
