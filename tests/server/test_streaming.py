# SPDX-License-Identifier: BSD-3-Clause
"""The token contract in a decoupled model: a response per step with all of output_ids so far."""

import client_tools as ct
import numpy as np
from tiny_models import EOS_ID, LONG
from triton_process import TritonServer, stopped, wait_for

PROMPTS = [[11, 12, 13], [21, 22]]


def is_idle(server: TritonServer) -> bool:
    return not any(stats.num_running or stats.num_waiting for stats in server.observe_all("llama"))


def test_every_response_has_all_tokens_so_far(server: TritonServer) -> None:
    arrays = ct.core_inputs(PROMPTS, [800, 300], min_length=800, is_return_log_probs=True)
    responses = ct.stream_infer(server.grpc, "streaming", arrays)
    last = ct.grpc_infer(server.grpc, "fastertransformer", arrays)
    lengths = [response["sequence_length"][:, 0].tolist() for response in responses]
    assert lengths == sorted(lengths)
    assert lengths[-1] == [800, 300]
    assert len(lengths) > 10  # fewer than steps where the sender lags, but so far behind it is nowhere
    for response in responses:
        for row in range(2):
            count, begin = int(response["sequence_length"][row, 0]), len(PROMPTS[row])
            ids = response["output_ids"][row, 0]
            assert ids[: begin + count].tolist() == last["output_ids"][row, 0, : begin + count].tolist()
            assert set(ids[begin + count :].tolist()) <= {EOS_ID}
            np.testing.assert_allclose(
                response["output_log_probs"][row, 0, :count],
                last["output_log_probs"][row, 0, :count],
                atol=1e-4,
            )
    for name in last:
        np.testing.assert_allclose(responses[-1][name], last[name], rtol=1e-6, atol=1e-4)


def test_steps_are_merged_when_the_sender_lags(server: TritonServer) -> None:
    """It stands still while the engine generates: what came meanwhile goes out at once, nothing is lost."""
    count, new = 4, 1500
    sender = server.stubs("streaming")
    with ct.open_stream(server.grpc) as stream:
        for i in range(count):
            stream.send("streaming", ct.core_inputs([[i + 3]], new, min_length=new), str(i))
        responses, finals = [], 0
        while len({response["output_ids"][0, 0, 0] for response in responses}) < count:
            responses.append(stream.next()[0])
        with stopped(sender):
            wait_for(lambda: is_idle(server), 60, "every token is generated")
        while finals < count:
            outputs, final = stream.next()
            responses += [outputs] if outputs else []
            finals += final
    complete = [response for response in responses if response["sequence_length"][0, 0] == new]
    assert sorted(response["output_ids"][0, 0, 0] for response in complete) == [i + 3 for i in range(count)]
    assert len(responses) < count * new / 2


def test_streams_interleave(server: TritonServer) -> None:
    """A stream that starts later has ended while an earlier one goes on."""
    with ct.open_stream(server.grpc) as stream:
        stream.send("streaming", ct.core_inputs([[11]], LONG, min_length=LONG))
        stream.next()
        stream.send("streaming", ct.core_inputs([[12]], 3, min_length=3))
        prompts = [int(outputs["output_ids"][0, 0, 0]) for outputs in stream.responses()]
        after, final = stream.next()
    assert 12 in prompts
    assert after["output_ids"][0, 0, 0] == 11
    assert not final


def test_events_over_http(server: TritonServer) -> None:
    """JSON of Triton has no dimensions: numbers come one behind the other."""
    draw = {"runtime_top_k": 9, "random_seed": 4, "is_return_log_probs": True, "min_length": 400}
    arrays = ct.core_inputs(PROMPTS[:1], 400, **draw)
    body = {name: array[0].tolist() for name, array in arrays.items()}
    status, text = ct.post(f"{server.http}/v2/models/streaming/generate_stream", body)
    assert status == 200, text
    responses = ct.events(text)
    lengths = [response["sequence_length"] for response in responses]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    expected = ct.stream_infer(server.grpc, "streaming", arrays)[-1]
    assert responses[-1]["output_ids"] == expected["output_ids"].reshape(-1).tolist()
    np.testing.assert_allclose(
        responses[-1]["output_log_probs"], expected["output_log_probs"].reshape(-1), atol=1e-4
    )
