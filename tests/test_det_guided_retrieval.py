"""Which normal image guides another: embeddings, neighbours and the images that a model keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import detector.guided.retrieval as retrieval
from detector.embeddings import CellEmbeddings
from detector.features import valid_cells
from detector.guided.retrieval import choose_references, embeddings, nearest
from manifests.errors import ConfigError, ModelError
from reference.coreset import k_centre
from reference.gaussian import mean_cell
from reference.guided import nearest_literally
from reference.small_networks import BOXES, GEOMETRY, make_images, make_network


def unit(count: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    rows = torch.randn((count, dim), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


# embeddings


def test_an_embedding_is_the_mean_of_the_cells_that_show_the_source():
    cells = CellEmbeddings(make_network())
    images = make_images(len(BOXES))
    before = images.copy()
    found = embeddings(cells, images, BOXES)
    assert found.shape == (len(BOXES), 8) and found.dtype == torch.float32
    maps = cells(images).numpy()
    for row, one, box in zip(found.numpy(), maps, BOXES, strict=True):
        mean = mean_cell(one, valid_cells(one.shape[:2], GEOMETRY, box))
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(images, before)


def test_an_embedding_does_not_depend_on_the_batch():
    cells = CellEmbeddings(make_network())
    images = make_images(len(BOXES))
    found = embeddings(cells, images, np.array(BOXES))
    alone = [embeddings(cells, images[i : i + 1], BOXES[i : i + 1]) for i in range(len(BOXES))]
    torch.testing.assert_close(found, torch.cat(alone))


def test_boxes_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ModelError, match="one canvas box per image"):
        embeddings(CellEmbeddings(make_network()), make_images(2), BOXES[:1])


# neighbours


def test_neighbours_by_hand():
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0], [0.0, -1.0]])
    found = nearest(torch.tensor([[1.0, 0.0], [0.0, -1.0]]), references, count=4)
    # The second query is at right angles with 0 and 3: the lower index comes first, -0.0 or not.
    assert found.tolist() == [[0, 2, 1, 4], [4, 0, 3, 2]]
    exclude = torch.tensor([0, -1])
    found = nearest(torch.tensor([[1.0, 0.0], [0.0, -1.0]]), references, count=2, exclude=exclude)
    assert found.tolist() == [[2, 1], [4, 0]]


@pytest.mark.parametrize("blocks", [(1024, 8192), (3, 5), (1, 1), (4, 23)])
@pytest.mark.parametrize("count", [1, 4, 22])
def test_neighbours_equal_the_literal_ones(monkeypatch, blocks, count):
    monkeypatch.setattr(retrieval, "_QUERY_ROWS", blocks[0])
    monkeypatch.setattr(retrieval, "_REFERENCE_ROWS", blocks[1])
    references = unit(23)
    references[7] = references[15] = references[2]  # ties
    queries = torch.cat([references[:9], unit(4, seed=1)])
    exclude = torch.tensor([*range(9), -1, -1, 22, 0])
    for excluded in (None, exclude):
        found = nearest(queries, references, count=count, exclude=excluded)
        expected = nearest_literally(queries.numpy(), references.numpy(), count, excluded)
        np.testing.assert_array_equal(found.numpy(), expected)


def test_images_that_hardly_differ_are_told_apart_and_copies_are_not():
    generator = torch.Generator().manual_seed(3)
    rows = unit(1, 320) + 1e-4 * torch.randn((60, 320), generator=generator)
    rows[30:] = rows[:30]
    rows = torch.nn.functional.normalize(rows, dim=1)
    found = nearest(rows, rows, count=20)
    np.testing.assert_array_equal(found.numpy(), nearest_literally(rows.numpy(), rows.numpy(), 20))
    assert found[:, :2].tolist() == [[i % 30, i % 30 + 30] for i in range(60)]


def test_keys_order_like_similarities_and_then_by_index():
    values = torch.tensor([[0.0, -0.0, 1e-40, -1e-40, 1.0, -1.0, 0.0, -0.5]])
    keys = retrieval._keys(values, torch.arange(8))[0]
    assert keys.argsort(descending=True).tolist() == [4, 2, 0, 1, 6, 3, 7, 5]


def test_an_image_never_guides_itself_however_many_copies_it_has():
    rows = unit(1).expand(6, -1)
    found = nearest(rows, rows, count=5, exclude=torch.arange(6))
    assert found.tolist() == [[j for j in range(6) if j != i] for i in range(6)]


def test_more_neighbours_than_there_are_is_an_error():
    rows = unit(3)
    assert nearest(rows[:0], rows, count=3).shape == (0, 3)
    for count, exclude in ((4, None), (3, torch.tensor([0, 1, 2])), (0, None)):
        with pytest.raises(ModelError, match="reference images"):
            nearest(rows, rows, count=count, exclude=exclude)


# references


def test_references_are_the_literal_k_centres_in_ascending_order():
    rows = unit(40)
    rng = np.random.default_rng(5)
    expected = sorted(k_centre(rows.numpy(), 7, first=int(rng.integers(40))))
    assert choose_references(rows, 7, seed=5).tolist() == expected
    assert choose_references(rows, 7, seed=5).tolist() == expected
    assert choose_references(rows, 40, seed=5).tolist() == list(range(40))
    assert choose_references(rows, 41, seed=5).tolist() == list(range(40))


def test_no_references_at_all_is_an_error():
    with pytest.raises(ConfigError, match="coreset size"):
        choose_references(unit(4), 0, seed=0)


def test_the_global_random_state_stays_as_it_is():
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    choose_references(unit(50, dim=500), 5, seed=1)
    nearest(unit(4), unit(4), count=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
