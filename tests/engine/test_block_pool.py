# SPDX-License-Identifier: BSD-3-Clause
"""Block pool properties: references add up, reuse order is least recently used, nothing shared by mistake."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastertransformer.engine.block_pool import BlockPool, prefix_digests


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "give", "share"]), st.integers(1, 4)), max_size=60))
def test_free_plus_used_is_total(actions):
    pool = BlockPool(12, 4)
    held: list[list[int]] = []
    for action, count in actions:
        if action == "take" and count <= pool.num_free:
            held.append(pool.allocate(count))
        elif action == "give" and held:
            pool.release(held.pop(count % len(held)))
        elif action == "share" and held:
            pool.share(held[count % len(held)])
            held.append(held[count % len(held)])
        assert pool.num_free + len({block for blocks in held for block in blocks}) == 12
    for blocks in held:
        pool.release(blocks)
    pool.check_integrity()


def test_unpublished_blocks_are_reused_before_cached_ones_and_the_oldest_first():
    pool = BlockPool(4, 4)
    first, second, third, fourth = pool.allocate(4)
    pool.publish(first, b"a")
    pool.publish(second, b"b")
    for block in (second, first, third, fourth):
        pool.release([block])
    assert {pool.allocate(1)[0], pool.allocate(1)[0]} == {third, fourth}
    assert pool.match([b"a"]) == [first]
    assert pool.allocate(1) == [second]
    assert pool.match([b"b"]) == []


def test_match_stops_at_the_first_unknown_block():
    pool = BlockPool(3, 4)
    blocks = pool.allocate(3)
    pool.publish(blocks[0], b"a")
    pool.publish(blocks[2], b"c")
    assert pool.match([b"a", b"b", b"c"]) == [blocks[0]]


def test_reuse_can_be_off():
    pool = BlockPool(2, 4, enable_reuse=False)
    (block,) = pool.allocate(1)
    pool.publish(block, b"a")
    assert pool.match([b"a"]) == []


def test_shared_free_block_is_no_longer_free():
    pool = BlockPool(2, 4)
    (block,) = pool.allocate(1)
    pool.publish(block, b"a")
    pool.release([block])
    assert pool.num_free_without([block]) == 1
    pool.share([block])
    assert pool.num_free == 1


def test_double_release_is_an_error():
    pool = BlockPool(1, 4)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(blocks)


def test_digest_names_everything_before_it():
    whole = prefix_digests([1, 2, 3, 4, 5, 6, 7, 8, 9], 4)
    assert len(whole) == 2
    assert prefix_digests([5, 6, 7, 8], 4, parent=whole[0]) == whole[1:]
    assert prefix_digests([9, 2, 3, 4, 5, 6, 7, 8], 4)[1] != whole[1]
