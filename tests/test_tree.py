"""The prefix tree and its rows, against prefixes counted one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_coop.prompts import PromptSequences
from peft_coop.prompts.tree import build_tree

VOCAB = 6  # ids 6 and above are learnable
prompts = st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple)
prompt_lists = st.lists(prompts, min_size=1, max_size=30).map(tuple)


def path_to_leaf(tree, index):
    """Ids along one prompt, read back from what its leaf attends to."""
    row, column = tree.leaf_rows[index], tree.leaf_columns[index]
    attended = tree.live.mask[row, column]
    trunk = [(position, token) for position, token in enumerate(tree.trunk)]
    assert attended[: len(trunk)].all()
    ids = np.concatenate([tree.frozen.ids[row], tree.live.ids[row]])
    positions = np.concatenate([tree.frozen.position_ids[row], tree.live.position_ids[row]])
    own = attended[len(trunk) :]
    nodes = sorted([*trunk, *zip(positions[own].tolist(), ids[own].tolist(), strict=True)])
    assert [position for position, _ in nodes] == list(range(len(nodes)))
    return tuple(token for _, token in nodes)


def prefixes(sequences):
    return {prompt[:end] for prompt in sequences for end in range(1, len(prompt) + 1)}


def in_each_row(tree, columns):
    """Ids of the ancestors and itself, for every node in a row, without the padding."""
    found = []
    for row in range(len(columns.ids)):
        for column in range(columns.ids.shape[1]):
            length = columns.mask[row, column].sum()
            if length == columns.position_ids[row, column] + 1:
                found.append((row, column))
    return found


@settings(max_examples=300)
@given(ids=prompt_lists, row_size=st.sampled_from([1, 5, 16, 128]))
def test_every_leaf_sees_its_own_prompt(ids, row_size):
    tree = build_tree(PromptSequences(ids, VOCAB), row_size)
    assert [path_to_leaf(tree, index) for index in range(len(ids))] == list(ids)
    assert tree.n_nodes == len(prefixes(ids))


@settings(max_examples=200)
@given(ids=prompt_lists)
def test_frozen_nodes_see_tokens_only(ids):
    tree = build_tree(PromptSequences(ids, VOCAB), 16)
    for row, column in in_each_row(tree, tree.frozen):
        seen = tree.frozen.mask[row, column][len(tree.trunk) :]
        assert (np.concatenate([tree.trunk, tree.frozen.ids[row][seen]]) < VOCAB).all()


@settings(max_examples=100)
@given(ids=prompt_lists, row_size=st.sampled_from([3, 16]))
def test_rows_hold_no_more_than_they_may(ids, row_size):
    tree = build_tree(PromptSequences(ids, VOCAB), row_size)
    longest = max(len(prompt) for prompt in ids) - len(tree.trunk)
    for row in range(len(tree.live.ids)):
        in_row = [prompt for prompt, place in zip(ids, tree.leaf_rows, strict=True) if place == row]
        nodes = [node for node in prefixes(in_row) if len(node) > len(tree.trunk)]
        assert 0 < len(nodes) <= max(row_size, longest)


def test_names_before_the_context_are_frozen():
    tree = build_tree(PromptSequences(((0, 1, 2, 6, 7, 5), (0, 3, 6, 7, 5)), VOCAB))
    assert tree.trunk.tolist() == [0]
    assert tree.frozen.ids.tolist() == [[1, 2, 3]]
    assert tree.live.ids.tolist() == [[6, 7, 5, 6, 7, 5]]


def test_a_shared_context_is_the_trunk():
    tree = build_tree(PromptSequences(((0, 6, 7, 1, 5), (0, 6, 7, 1, 2, 5), (0, 6, 7, 3, 5)), VOCAB))
    assert tree.trunk.tolist() == [0, 6, 7]
    assert tree.frozen.ids.size == 0
    assert sorted(tree.live.ids[0].tolist()) == [1, 2, 3, 5, 5, 5]
    assert tree.n_nodes == tree.n_computed == 9


def test_prompts_without_vectors_have_one_kind_of_nodes():
    tree = build_tree(PromptSequences(((0, 1, 5), (0, 2, 5)), VOCAB))
    assert tree.frozen.ids.size == 0


@pytest.mark.parametrize("n_cls", [1, 50_000])
def test_few_and_many_classes(n_cls):
    ids = tuple((0, 6, 7, 8, 1 + index % 4, 10_000 + index, 5) for index in range(n_cls))
    tree = build_tree(PromptSequences(ids, 10_000_000))
    assert len(tree.leaf_rows) == n_cls
    for index in (0, n_cls // 2, n_cls - 1):
        assert path_to_leaf(tree, index) == ids[index]


@pytest.mark.parametrize(("n_attributes", "n_objects"), [(7, 11), (3, 400), (413, 5)])
def test_all_pairs_of_words_are_two_nodes_each_one_per_first_word_and_a_trunk(n_attributes, n_objects):
    first, second = range(100, 100 + n_attributes), range(1000, 1000 + n_objects)
    pairs = [(0, 1, 2, 3, attribute, thing, 5) for thing in second for attribute in first]
    tree = build_tree(PromptSequences(tuple(pairs), 100))
    assert tree.n_nodes == 4 + n_attributes + 2 * len(pairs)
    assert tree.trunk.tolist() == [0, 1, 2, 3]
    assert tree.n_nodes <= tree.n_computed < 1.1 * tree.n_nodes  # what rows repeat, and their padding


def test_a_long_prompt_has_a_row_of_its_own():
    long = tuple(range(300))
    tree = build_tree(PromptSequences((long, (0, 500, 1), (0, 501, 1)), 10_000), row_size=16)
    assert path_to_leaf(tree, 0) == long
