# SPDX-License-Identifier: BSD-3-Clause
"""The verbs `bench` and `bench-kernels` as a user runs them, on a tiny model with random weights."""

import json
from pathlib import Path

import pytest
from commands import run

SMALL = ["--num-threads=1", "--data-type=fp32", "--repetitions=1"]
ENGINE = ["--parameter=device=cpu", "--parameter=max_tokens_in_paged_kv_cache=4096"]


def figures(path: Path, *arguments: object) -> tuple[dict[str, object], str]:
    """What a successful run wrote and printed."""
    done = run(*arguments, f"--json={path}", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 110
    return json.loads(path.read_text()), done.stdout


def test_engine_and_peers_side_by_side(tiny, tmp_path):
    content, printed = figures(
        tmp_path / "figures.json",
        *("bench", tiny, "--dummy-weights", "--batch=1,3", "--input-len=9", "--output-len=6"),
        *("--workload=2x40/1,80x8/3", "--peer=torch", "--peer=hf", *SMALL, *ENGINE),
    )
    assert content["machine"]["device"] == "cpu"
    assert content["machine"]["read_bandwidth"] > 1e8
    assert content["machine"]["matrix_rate"] > 1e8
    assert content["parameters"]["load_format"] == "dummy"
    rows = content["rows"]
    workloads = [(1, 9, 6), (3, 9, 6), (2, 40, 1), (80, 8, 3)]
    assert [(row["batch"], row["input_len"], row["output_len"], row["system"]) for row in rows] == [
        (*sizes, system) for sizes in workloads for system in ("engine", "torch", "hf")
    ]
    assert all(row["tokens_per_second"] > 0 and row["ttft_ms"] > 0 for row in rows)
    ceilings = [row["ceiling"] for row in rows if row["system"] == "engine"]
    assert ceilings[:2] == ["bandwidth", "bandwidth"]
    assert ceilings[3] == "both"  # more requests than run at once
    assert all((row["ratio"] is None) == (row["system"] == "engine") for row in rows)
    assert all(row["equal_tokens"] is None for row in rows)  # each has weights of its own
    for heading in ("TTFT ms", "ms/token", "of ceiling", "GB/step"):
        assert heading in printed


def test_encoder_decoders_with_mixed_lengths_and_beams(tiny_t5, tmp_path):
    content, printed = figures(
        tmp_path / "mixed.json",
        *("bench", tiny_t5, "--dummy-weights", "--batch=", "--workload=5x3-20/2-7", "--peer=hf"),
        *(*SMALL, *ENGINE),
    )
    assert [(row["system"], row["workload"]) for row in content["rows"]] == [
        ("engine", "5x3-20/2-7"),
        ("hf", "5x3-20/2-7"),
    ]
    assert "5x3-20/2-7" in printed
    content, _ = figures(
        tmp_path / "beams.json",
        *("bench", tiny_t5, "--dummy-weights", "--batch=2", "--input-len=9", "--output-len=5"),
        *("--beam-width=3", "--peer=hf", *SMALL, *ENGINE),
    )
    assert [(row["workload"], row["beam_width"]) for row in content["rows"]] == [("2*3x9/5", 3)] * 2
    assert all(row["tokens_per_second"] > 0 for row in content["rows"])


def test_encoder_decoders_beside_ctranslate2(tiny_t5, tmp_path):
    pytest.importorskip("ctranslate2")
    content, _ = figures(
        tmp_path / "figures.json",
        *("bench", tiny_t5, "--dummy-weights", "--batch=2", "--input-len=9", "--output-len=5"),
        *("--workload=3x4-9/2-6", "--peer=ctranslate2", *SMALL, *ENGINE),
    )
    assert [row["system"] for row in content["rows"]] == ["engine", "ctranslate2"] * 2


def test_encoders(tiny_bert, tmp_path):
    content, printed = figures(
        tmp_path / "figures.json",
        *("bench", tiny_bert, "--dummy-weights", "--batch=2", "--input-len=9", "--workload=40x3-30"),
        *("--peer=hf", *SMALL, "--parameter=device=cpu"),
    )
    rows = content["rows"]
    assert [(row["system"], row["workload"]) for row in rows] == [
        (system, workload) for workload in ("2x9", "40x3-30") for system in ("engine", "hf")
    ]
    for row in rows:
        assert row["sentences_per_second"] == pytest.approx(row["batch"] / row["total_ms"] * 1e3)
        assert row["ceiling"] == "matrix"
    assert "sentences/s" in printed


def test_profile_of_an_encoder(tiny_bert, tmp_path):
    content, _ = figures(
        tmp_path / "figures.json",
        *("bench", tiny_bert, "--dummy-weights", "--profile", "--batch=3", "--input-len=9"),
        *(*SMALL, "--parameter=device=cpu"),
    )
    (whole,) = content["profiles"]
    calls = {kernel["name"]: kernel["calls"] for kernel in whole["kernels"]}
    assert whole["unit"] == "run"
    assert calls["encoder_attention"] == 2


def test_profile_names_kernels_and_what_is_left_to_the_host(tiny, tmp_path):
    content, printed = figures(
        tmp_path / "figures.json",
        *("bench", tiny, "--dummy-weights", "--profile", "--batch=2", "--input-len=9", "--output-len=12"),
        *("--workload=1x30/1", *SMALL, *ENGINE),
    )
    steps, prefill = content["profiles"]
    assert (steps["unit"], prefill["unit"]) == ("step", "run")
    calls = {kernel["name"]: kernel["calls"] for kernel in steps["kernels"]}
    assert calls["paged_attention"] == 2  # one for each layer
    assert calls["add_rms_norm"] == 4  # two for each layer, one of them for the final norm
    assert steps["busy_us"] == pytest.approx(sum(kernel["us"] for kernel in steps["kernels"]))
    assert 0 < steps["busy_us"] <= steps["busy_us"] + steps["host_us"] == pytest.approx(steps["profiled_us"])
    assert steps["wall_us"] > 0
    assert "paged_attention" in printed
    assert "waiting for the host" in " ".join(printed.split())  # wherever the line ends


def test_kernels_beside_torch(tmp_path):
    content, printed = figures(
        tmp_path / "figures.json",
        *("bench-kernels", "--shape=smollm2-135m", "--op=rms_norm,greedy", "--tokens=1,3", "--rows=2"),
        *("--data-type=fp32", "--num-threads=1", "--device=cpu"),
    )
    rows = content["kernels"]
    assert [(row["op"], row["sizes"]) for row in rows] == [
        ("rms_norm", "1x576"),
        ("rms_norm", "3x576"),
        ("greedy", "2x49152"),
    ]
    for row in rows:
        assert row["torch_us"] > 0
        assert row["us"] > 0
        assert row["speed_up"] == pytest.approx(row["torch_us"] / row["us"])
    assert "torch us" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bench"], "give either PATH or --shape"),
        (["bench", "--shape=llama-9"], "--shape 'llama-9' is unknown; shapes are llama-2-7b"),
        (["bench", "--shape=smollm2-135m", "--peer=nobody", *SMALL, *ENGINE], "--peer 'nobody' is unknown"),
        (["bench", "--shape=smollm2-135m", "--workload=8x"], "not of the form REQUESTSxINPUT/OUTPUT"),
        (
            ["bench", "--shape=smollm2-135m", "--workload=8x8", *SMALL, *ENGINE],
            "workloads of this model are of the form REQUESTSxINPUT/OUTPUT, since it generates",
        ),
        (
            ["bench", "--shape=minilm-l6", "--through-triton", *SMALL, *ENGINE],
            "--through-triton measures decoders only",
        ),
        (
            ["bench", "--shape=t5-small", "--peer=torch", *SMALL, *ENGINE],
            "--peer 'torch' is unknown; peers of this model are hf, ctranslate2",
        ),
        (["bench-kernels", "--shape=gpt2", "--op=nonsense"], "--op nonsense is unknown; ops are"),
        (["bench-kernels", "--shape=gpt2", "--data-type=fp12"], "data_type is 'fp12'; allowed are"),
    ],
)
def test_what_is_wrong_is_said(arguments, text):
    done = run(*arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode != 0
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
