"""Protects the reading of sound: any codec and rate to one channel in time with the pictures, and no damaged file passes."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from torchmsaf.data.prepare.audio import cut, read_audio
from torchmsaf.errors import DataError

av = pytest.importorskip("av")
RATE = 44_100


def sine(rate: int, *, seconds: float = 1.0, amplitude: float = 0.5) -> NDArray[np.float32]:
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def encode(
    container: str, codec: str | None, rate: int, channels: list[NDArray[np.float32]], *, start: float = 0, video=False
) -> bytes:
    """A media file of these channels, the sound ``start`` seconds after the pictures if there are any."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        if video:
            pictures = file.add_stream("mpeg4", rate=25)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        if codec:
            layout = {1: "mono", 2: "stereo"}[len(channels)]
            sound = file.add_stream(codec, rate=rate, layout=layout)
        file.start_encoding()
        if video:
            black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            file.mux([*pictures.encode(black), *pictures.encode(None)])
        if codec:
            context = sound.codec_context
            frame = av.AudioFrame.from_ndarray(np.stack(channels), format="fltp", layout=layout)
            frame.sample_rate = rate
            shaper = av.AudioResampler(context.format, layout, rate, context.frame_size)
            position = round(start * rate)
            for piece in [*shaper.resample(frame), *shaper.resample(None)] if frame.samples else []:
                piece.pts, piece.time_base = position, Fraction(1, rate)
                position += piece.samples
                file.mux(sound.encode(piece))
            file.mux(sound.encode(None))
    return out.getvalue()


def read(data: bytes, name: str = "a.mp4", rate: int = RATE) -> NDArray[np.float32]:
    return read_audio(io.BytesIO(data), name, rate=rate)


@pytest.fixture(scope="session")
def aac() -> bytes:
    return encode("mp4", "aac", 48_000, [sine(48_000)] * 2)


def test_aac_at_48_khz_comes_back_at_44_1_khz_in_time_and_as_loud(aac: bytes) -> None:
    wave = read(aac)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert wave.size == pytest.approx(RATE, abs=1024)
    spectrum = np.abs(np.fft.rfft(wave[:RATE])) * 2 / RATE  # bins of 1 Hz
    assert spectrum.argmax() == 440
    assert spectrum[440] == pytest.approx(0.5, rel=0.05)
    # 1024 samples of priming, left in, would turn the phase by 140 degrees
    np.testing.assert_allclose(wave[4000:40_000], sine(RATE)[4000:40_000], atol=0.05)


def test_mp3_in_avi_and_aac_in_matroska_are_read() -> None:
    for container, codec in (("avi", "mp3"), ("matroska", "aac")):
        wave = read(encode(container, codec, 48_000, [sine(48_000)]))
        spectrum = np.abs(np.fft.rfft(wave[:RATE])) * 2 / RATE
        assert spectrum.argmax() == 440
        assert spectrum[440] == pytest.approx(0.5, rel=0.1)  # libmp3lame comes 5 % lower


def test_pcm_at_the_wanted_rate_is_bit_for_bit() -> None:
    steps = np.array([0, 1, -1, 32_767, -32_768, 12_345] * 50, dtype=np.int16)
    wave = (steps / 32_768).astype(np.float32)
    assert np.array_equal(read(encode("wav", "pcm_s16le", RATE, [wave])), wave)


def test_the_end_of_the_sound_leaves_the_resampler() -> None:
    assert read(encode("wav", "pcm_s16le", 48_000, [sine(48_000)])).size == RATE
    assert read(encode("wav", "pcm_s16le", 8_000, [sine(8_000)])).size == RATE


def test_stereo_is_the_plain_mean_of_its_channels() -> None:
    left, right = sine(48_000, amplitude=0.9), np.full(48_000, 0.25, np.float32)
    wave = read(encode("wav", "pcm_s16le", 48_000, [left, right]))
    np.testing.assert_allclose(wave[200:-200], (0.5 * sine(RATE, amplitude=0.9) + 0.125)[200:-200], atol=1e-3)
    both = read(encode("wav", "pcm_s16le", 48_000, [left, left]))
    np.testing.assert_allclose(both[200:-200], sine(RATE, amplitude=0.9)[200:-200], atol=1e-3)  # nothing is clipped


def test_what_is_louder_than_a_16_bit_file_is_limited_after_the_mean() -> None:
    loud, soft = np.full(1000, 1.5, np.float32), np.full(1000, -1.0, np.float32)
    assert np.array_equal(read(encode("wav", "pcm_f32le", RATE, [loud])), np.ones(1000))
    assert np.array_equal(read(encode("wav", "pcm_f32le", RATE, [loud, soft])), np.full(1000, 0.25))


def test_sound_that_starts_after_the_pictures_is_preceded_by_silence() -> None:
    wave = read(encode("matroska", "pcm_s16le", 48_000, [sine(48_000)], start=0.25, video=True))
    assert wave.size == 11_025 + RATE
    assert not wave[:11_025].any()
    np.testing.assert_allclose(wave[11_225:-200], sine(RATE)[200:-200], atol=1e-3)


def test_sound_alone_starts_at_once_whatever_its_clock_says() -> None:
    wave = read(encode("matroska", "pcm_s16le", 48_000, [sine(48_000)], start=0.25))
    assert wave.size == RATE


def test_a_path_and_a_file_give_the_same_and_the_file_stays_open(aac: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a:b.mp4"
    path.write_bytes(aac)
    file = io.BytesIO(aac)
    file.seek(0, 2)  # wherever it stands
    wave = read_audio(file, "a.mp4")
    assert np.array_equal(wave, read_audio(path, "a.mp4"))
    assert np.array_equal(wave, read_audio(str(path), "a.mp4"))
    assert not file.closed


def test_a_file_without_sound_is_refused() -> None:
    with pytest.raises(DataError, match=r"^01\.mp4 has no audio track; give the file that has both picture and sound$"):
        read(encode("mp4", None, 0, [], video=True), "01.mp4")
    nothing = encode("wav", "pcm_s16le", 48_000, [np.zeros(0, np.float32)])
    with pytest.raises(DataError, match=r"^01\.wav has an audio track with nothing in it; copy or download it again$"):
        read(nothing, "01.wav")


def test_what_is_no_media_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^01\.mp4 is not a media file that FFmpeg can read \(.+\); give an mp4, avi or"
    ):
        read(b"hello world\n" * 50, "01.mp4")
    with pytest.raises(DataError, match=r"^01\.mp4 is empty; copy or download it again$"):
        read(b"", "01.mp4")
    with pytest.raises(DataError, match=r"^01\.mp4 cannot be opened \(No such file or directory\); check the path"):
        read_audio(tmp_path / "01.mp4", "01.mp4")


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("avi", "mp3")])
def test_a_riff_file_that_lost_its_end_is_refused(container: str, codec: str) -> None:
    data = encode(container, codec, 48_000, [sine(48_000)])
    half, size = len(data) // 2, len(data)
    with pytest.raises(DataError, match=rf"^01 is cut off: it has {half} of {size} bytes; copy or download it again$"):
        read(data[:half], "01")


def test_a_wav_whose_writer_did_not_know_its_size_is_read() -> None:
    data = bytearray(encode("wav", "pcm_s16le", RATE, [sine(RATE)]))
    data[4:8] = b"\xff" * 4
    assert read(bytes(data)).size == RATE


def test_an_mp4_that_lost_its_end_is_refused(aac: bytes) -> None:
    with pytest.raises(DataError, match=r"^01\.mp4 is cut off: its index is missing; copy or download it again$"):
        read(aac[: len(aac) // 2], "01.mp4")


def test_damage_on_the_way_is_refused_with_its_time(aac: bytes) -> None:
    damaged = bytearray(aac)
    middle = len(damaged) // 2
    damaged[middle : middle + 400] = b"\xff" * 400
    with pytest.raises(
        DataError, match=r"^01\.mp4 is damaged after 0\.[2-7][0-9] s of its sound; copy or download"
    ) as told:
        read(bytes(damaged), "01.mp4")
    assert isinstance(told.value.__cause__, av.FFmpegError)


def test_a_track_that_changes_its_rate_on_the_way_is_refused() -> None:
    data = encode("adts", "aac", 48_000, [sine(48_000)]) + encode("adts", "aac", 32_000, [sine(32_000)])
    with pytest.raises(DataError, match=r"^01\.aac is damaged after 1\.[0-9]{2} s of its sound"):
        read(data, "01.aac")


def test_a_damaged_clock_and_samples_that_are_no_numbers_are_refused() -> None:
    late = encode("matroska", "pcm_s16le", 8_000, [sine(8_000)], start=61, video=True)
    with pytest.raises(DataError, match=r"^01\.mkv has sound that starts 61\.00 s after its pictures; at most 60 s"):
        read(late, "01.mkv")
    with pytest.raises(DataError, match=r"^01\.wav has samples that are not finite numbers"):
        read(encode("wav", "pcm_f32le", RATE, [np.full(1000, np.nan, np.float32)]), "01.wav")


def test_the_piece_is_taken_after_the_offset_and_has_its_full_length() -> None:
    wave = np.arange(150_000, dtype=np.float32)
    piece = cut(wave, RATE)
    assert piece.shape == (108_045,)
    assert piece.dtype == np.float32
    assert np.array_equal(piece, wave[22_050:130_095])
    piece[:] = 0
    assert wave[22_051] == 22_051  # a copy


def test_a_short_wave_is_filled_with_zeros_at_its_end() -> None:
    assert cut(np.ones(25, np.float32), 10, offset=1, duration=2).tolist() == [1.0] * 15 + [0.0] * 5
    assert cut(np.ones(11, np.float32), 10, offset=1, duration=0.3).tolist() == [1, 0, 0]


@pytest.mark.parametrize("samples", [0, 13_671, 22_050])
def test_a_wave_that_ends_before_the_piece_is_refused(samples: int) -> None:
    told = rf"^01\.wav is {samples / RATE:.2f} s long; more than 0\.50 s are needed, as the first 0\.50 s are left out$"
    with pytest.raises(DataError, match=told):
        cut(np.ones(samples, np.float32), RATE, name="01.wav")
