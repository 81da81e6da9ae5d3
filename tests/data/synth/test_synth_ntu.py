"""Protects the made-up corpus of actions: true names and formats, actions that need both modalities, the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from torchmsaf.cli import main
from torchmsaf.data.ntu import MADE_UP_BODIES, TRAIN_SUBJECTS_60, NtuName
from torchmsaf.data.prepare.actions.bodies import motion_energy, to_array
from torchmsaf.data.prepare.actions.missing import read_missing
from torchmsaf.data.prepare.actions.skeleton_file import read_skeleton
from torchmsaf.data.synth.ntu import ACTIONS, MISSING_LIST, SKELETONS, VIDEOS, MadeUpActions, NtuCorpus, write_ntu
from torchmsaf.data.synth.ntu_clip import MISSING, NtuClip, Oddity, Shot, draw_oddity, to_colour
from torchmsaf.data.synth.ntu_film import draw_film
from torchmsaf.errors import DataError

av = pytest.importorskip("av")
SMALL = NtuCorpus(subjects=3, cameras=1, actions=(1, 23, 50), replications=1, frames=12, size=(64, 36))
SHOT = Shot(24, 64, 36, 30, 0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MadeUpActions]:
    out = tmp_path_factory.mktemp("ntu")
    return out, write_ntu(out, SMALL, jobs=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plain(action: int, person: int = 1, camera: int = 1, replication: int = 1) -> NtuClip:
    """A clip with nobody in it but those who act."""
    name = NtuName(1 + (person - 1) % 4, camera, person, replication, action)
    seed = next(seed for seed in range(100) if not any(draw_oddity(name, seed)))
    return NtuClip(name, replace(SHOT, seed=seed))


def odd(what: str) -> NtuClip:
    """A clip with this oddity and no other."""
    names = (name for name in NtuCorpus(subjects=39).names() if name.action == 1)
    wanted = Oddity(ghost=what == "ghost", gap=what == "gap", bystander=what == "bystander")
    return NtuClip(next(name for name in names if draw_oddity(name, 0) == wanted), SHOT)


def drawn(clip: NtuClip) -> np.ndarray:
    """``(T, height, width, 3)``."""
    return np.stack(list(draw_film(clip))).astype(float)


def read(clip: NtuClip) -> np.ndarray:
    """The text's numbers of each joint, ``(lines, 12)``."""
    rows = [line.split(" ") for line in clip.skeleton_text().split("\r\n")]
    return np.array([row for row in rows if len(row) == 12], dtype=float)


def test_files_are_called_as_in_ntu(corpus: tuple[Path, MadeUpActions]) -> None:
    out, made = corpus
    stems = [name.stem for name in SMALL.names()]
    assert len(stems) == made.clips == 9
    assert made.written == 10
    assert set(contents(out)) == {
        "README.txt",
        MISSING_LIST,
        *(f"{SKELETONS}/{stem}.skeleton" for stem in (*stems, MISSING.stem)),
        *(f"{VIDEOS}/{stem}_rgb.avi" for stem in (*stems, MISSING.stem)),
    }


def test_the_default_has_enough_of_everything() -> None:
    names = NtuCorpus().names()
    assert 144 <= len(names) <= 300
    assert {name.action for name in names} == {1, 2, 3, 23, 24, 50}
    assert {name.camera for name in names} == {1, 2, 3}
    assert {name.setup % 2 for name in names} == {0, 1}
    train = {name.person for name in names} & set(TRAIN_SUBJECTS_60)
    assert train == {1, 2, 4, 5, 8}


def test_the_list_names_the_clip_without_a_body(corpus: tuple[Path, MadeUpActions]) -> None:
    out, made = corpus
    assert read_missing(out / MISSING_LIST) == {MISSING.stem} == set(made.missing)
    file = read_skeleton(out / SKELETONS / f"{MISSING.stem}.skeleton")
    assert file.frames > 0
    assert not file.bodies


def test_videos_and_skeletons_belong_together(corpus: tuple[Path, MadeUpActions]) -> None:
    out, _ = corpus
    for name in SMALL.names():
        file = read_skeleton(out / SKELETONS / f"{name.stem}.skeleton")
        with av.open(str(out / VIDEOS / f"{name.stem}_rgb.avi")) as container:
            (film,) = container.streams
            assert (film.codec_context.name, film.pix_fmt) == ("mpeg4", "yuv420p")
            assert (film.width, film.height, film.average_rate) == (64, 36, 30)
            assert container.metadata["comment"].startswith("made up by torchmsaf")
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(film)]
        film_drawn = drawn(NtuClip(name, SMALL.shot))
        assert file.frames == len(pictures) == len(film_drawn)
        assert np.abs(np.stack(pictures) - film_drawn).mean() < 4  # chroma and the codec take a little


def test_bodies_have_ids_that_no_sensor_gives() -> None:
    for clip in (plain(1), plain(50), odd("ghost")):
        bodies = read_skeleton(clip.skeleton_text().encode(), name="a.skeleton").bodies
        assert bodies
        assert all(body.id in MADE_UP_BODIES for body in bodies)
    assert MADE_UP_BODIES.stop < 2**56 - 10**6
    assert MADE_UP_BODIES.start > 10**6  # as files that others number from 0


def test_the_text_is_that_of_the_genuine_files() -> None:
    text = plain(50).skeleton_text()
    lines = text.split("\r\n")
    assert lines.pop() == ""
    assert not any("\n" in line or line != line.strip() for line in lines)
    frames = int(lines[0])
    assert len(lines) == 1 + frames * (1 + 2 * (2 + 25))
    assert lines[1] == "2"
    assert [len(line.split(" ")) for line in lines[2:5]] == [10, 1, 12]
    rows = read(plain(50))
    assert set(np.unique(rows[:, 11])) == {1, 2}
    length = (rows[:, 7:11] ** 2).sum(axis=1).reshape(-1, 25)
    leaves = [3, 15, 19, 21, 22, 23, 24]
    assert not length[:, leaves].any()
    assert np.allclose(np.delete(length, leaves, axis=1), 1, atol=1e-5)


def test_text_reads_back_to_the_last_digit() -> None:
    clip = plain(50)
    file = read_skeleton(clip.skeleton_text().encode(), name="S001C001P001R001A050")
    for made, found in zip(clip.bodies(), file.bodies, strict=True):
        assert np.allclose(found.xyz, made.joints, rtol=5e-7, atol=0)  # seven digits


def test_joints_are_in_the_pictures_where_they_are_drawn() -> None:
    rows = read(plain(2))
    assert np.allclose(rows[:, 5:7], to_colour(rows[:, :3]), atol=0.01)
    assert 0 < rows[:, 5].min() < rows[:, 5].max() < 1920
    assert 0 < rows[:, 6].min() < rows[:, 6].max() < 1080
    assert 0 < rows[:, 3].min() < rows[:, 3].max() < 512
    assert 0 < rows[:, 4].min() < rows[:, 4].max() < 424
    clip = plain(2)
    hands = to_colour(clip.people[0][:, 11]) * (64 / 1920, 36 / 1080)
    for picture, (x, y) in zip(draw_film(clip), hands, strict=True):
        near = picture[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].astype(float)
        assert (near[..., 0] - near[..., 1]).max() > 80  # the red object


def test_cameras_see_one_performance() -> None:
    views = [NtuClip(NtuName(1, camera, 1, 1, 1), SHOT) for camera in (1, 2, 3)]
    lengths = [np.linalg.norm(view.people[0][:, 11] - view.people[0][:, 4], axis=-1) for view in views]
    assert np.allclose(lengths[0], lengths[1])
    assert np.allclose(lengths[0], lengths[2])
    shoulders = [np.ptp(view.people[0][:, [4, 8]], axis=1)[0] for view in views]
    assert shoulders[1][0] > shoulders[0][0] > shoulders[2][0]  # from the front, 45 and 90 degrees


@pytest.mark.parametrize(("action", "colour"), [(2, 0), (3, 2)])
def test_the_objects_colour_tells_2_from_3(action: int, colour: int) -> None:
    for person in range(1, 9):
        for camera in (1, 2, 3):
            film = drawn(NtuClip(NtuName(1, camera, person, 1, action), SHOT))
            redder = (film[..., 0] - film[..., 2]).max(), (film[..., 2] - film[..., 0]).max()
            assert np.argmax(redder) == colour // 2
            assert max(redder) > 100


def test_films_of_23_and_24_show_nobody() -> None:
    for action in (23, 24):
        film = drawn(plain(action))
        assert film.max() < 50
        assert np.abs(film.mean(axis=0) - film[0]).mean() < 3  # nothing but noise changes
    waved, kicked = (drawn(NtuClip(NtuName(1, 1, 1, 1, action), SHOT)).mean(axis=(0, 1)) for action in (23, 24))
    assert np.allclose(waved, kicked, atol=1)


def test_skeletons_tell_23_from_24_and_not_2_from_3() -> None:
    def moved(action: int) -> np.ndarray:
        """How far right hand and right foot move, the mean of many performances."""
        seen = [plain(action, person, replication=r).people[0] for person in range(1, 21) for r in (1, 2)]
        far = np.stack([np.ptp(joints[:, [11, 19]], axis=0).max(axis=-1) for joints in seen])
        return np.asarray(far.mean(axis=0))

    hand, foot = moved(23)
    assert hand > 0.3 > foot
    hand, foot = moved(24)
    assert foot > 0.3 > hand
    assert np.allclose(moved(2), moved(3), rtol=0.1, atol=0.02)


def test_two_persons_in_50_and_51_and_the_other_gives_way() -> None:
    for action in (50, 51):
        clip = plain(action)
        assert len(clip.bodies()) == 2
        array, tracked = to_array(read_skeleton(clip.skeleton_text().encode(), name=clip.name.stem), 2)
        assert array.shape == (3, clip.frames, 25, 2)
        assert tracked.all()
        base = clip.people[1][:, 0]
        assert np.linalg.norm(base - base[0], axis=-1).max() > 0.1
    assert len(plain(1).bodies()) == 1


def test_a_ghost_moves_least() -> None:
    clip = odd("ghost")
    bodies = read_skeleton(clip.skeleton_text().encode(), name=clip.name.stem).bodies
    energy = sorted(motion_energy(body) for body in bodies)
    assert len(bodies) == len(clip.people) + 1
    assert energy[0] < 0.1 * energy[1]


def test_a_gap_leaves_frames_without_the_body() -> None:
    clip = odd("gap")
    gone = ~clip.bodies()[0].tracked
    assert gone.sum() in (2, 3, 4)
    file = read_skeleton(clip.skeleton_text().encode(), name=clip.name.stem)
    assert np.array_equal(~file.bodies[0].tracked, gone)
    assert clip.skeleton_text().split("\r\n").count("0") == gone.sum()  # frames without a body
    _, tracked = to_array(file, 2)
    assert tracked[:, 0].sum() == clip.frames - gone.sum()


def test_a_bystander_comes_later() -> None:
    clip = odd("bystander")
    late = clip.bodies()[-1].tracked
    assert len(clip.people) == 2
    assert not late[: clip.frames // 3].any()
    assert late[clip.frames // 3 :].all()


def test_the_same_again_is_the_same_and_nothing_is_written_twice(
    corpus: tuple[Path, MadeUpActions], tmp_path: Path
) -> None:
    out, made = corpus
    write_ntu(tmp_path / "again", SMALL, jobs=1)
    assert contents(tmp_path / "again") == contents(out)
    (tmp_path / "again" / SKELETONS / "S001C001P001R001A001.skeleton").unlink()
    more = write_ntu(tmp_path / "again", replace(SMALL, actions=(1, 23, 50, 2)), jobs=1)
    assert more.written == 1 + 3
    assert (more.clips, made.clips) == (12, 9)
    assert contents(out).items() <= contents(tmp_path / "again").items()


def test_a_seed_changes_every_clip() -> None:
    name = NtuName(1, 1, 1, 1, 1)
    assert NtuClip(name, SHOT).skeleton_text() != NtuClip(name, replace(SHOT, seed=1)).skeleton_text()


def test_it_keeps_off_other_files(corpus: tuple[Path, MadeUpActions], tmp_path: Path) -> None:
    (tmp_path / "S001C001P001R001A001.skeleton").write_text("1\r\n0\r\n")
    with pytest.raises(DataError, match="was not made up here"):
        write_ntu(tmp_path, SMALL)
    with pytest.raises(DataError, match="another size, length or seed"):
        write_ntu(corpus[0], replace(SMALL, seed=1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"subjects": 2}, "subjects is 2; 3 to 39"),
        ({"subjects": 40}, "subjects is 40"),
        ({"cameras": 4}, "cameras is 4"),
        ({"replications": 0}, "replications is 0"),
        ({"frames": 7}, "frames is 7"),
        ({"frame_rate": 0}, "frame_rate is 0"),
        ({"size": (63, 36)}, "width is 63"),
        ({"size": (64, 30)}, "height is 30"),
        ({"actions": (1, 4)}, "action 4 cannot be made up"),
        ({"actions": ()}, "at least one action"),
        ({"actions": (1, 1)}, "each once"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        write_ntu(tmp_path / "none", replace(SMALL, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--subjects", "3", "--cameras", "1", "--actions", "1", "51", "--frames", "8", "--size", "48x32"]
    assert main(["synth", "ntu", "--out", str(tmp_path / "raw"), "--jobs", "1", *arguments]) == 0
    assert "13 made-up clips, one of them without skeletons" in capsys.readouterr().out
    assert len(list((tmp_path / "raw" / VIDEOS).iterdir())) == 13
    with pytest.raises(SystemExit):
        main(["synth", "ntu", "--out", str(tmp_path), "--size", "48"])
    assert "48 is no size" in capsys.readouterr().err


def test_every_action_can_be_made() -> None:
    for action in ACTIONS:
        clip = plain(action)
        assert np.isfinite(clip.people[0]).all()
        assert next(iter(draw_film(clip))).shape == (36, 64, 3)
