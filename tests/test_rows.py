import torch

from fewstep import rows
from fewstep.rows import Changed, Chosen, in_pieces, pieces, some_of, standard_deviation


def test_pieces_are_as_large_as_memory_shall_hold(monkeypatch):
    monkeypatch.setattr(rows, "PIECE_BYTES", 100)
    assert [len(piece) for piece in pieces(torch.arange(7), (2, 4))] == [3, 3, 1]
    assert [len(piece) for piece in pieces(torch.arange(2), (2, 99))] == [1, 1]
    data = torch.randn(7, 2, 4)
    assert torch.equal(torch.cat(list(in_pieces(data))), data)


def test_rows_are_chosen_and_changed_when_they_are_asked_for():
    data = torch.arange(20.0).view(10, 2)
    chosen = Chosen(data, torch.tensor([7, 1, 4]))
    assert (len(chosen), chosen.shape) == (3, (3, 2))
    assert torch.equal(chosen[torch.tensor([2, 0])], data[[4, 7]])
    changed = Changed(chosen, lambda part: part.sum(1, keepdim=True))
    assert (len(changed), changed.shape) == (3, (3, 1))
    assert torch.equal(changed[torch.tensor([1])], torch.tensor([[5.0]]))


def test_the_standard_deviation_is_that_of_the_whole(monkeypatch):
    data = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 5 + 1000
    whole = standard_deviation(data)
    assert torch.equal(whole, data.double().std().float())
    monkeypatch.setattr(rows, "PIECE_BYTES", 130)
    torch.testing.assert_close(standard_deviation(data), whole, rtol=1e-7, atol=0)


def test_of_too_many_rows_some_are_drawn_and_stay_in_order():
    data = torch.arange(100.0).view(100, 1)
    assert some_of(data, 100, stream="a", seed=0) is data
    some = some_of(data, 30, stream="a", seed=0)
    found = torch.cat(list(in_pieces(some))).flatten().tolist()
    assert len(found) == len(set(found)) == 30
    assert found == sorted(found)
    assert max(found) - min(found) > 60  # from all over the set
    other, again = (torch.cat(list(in_pieces(some_of(data, 30, stream=s, seed=0)))) for s in "ba")
    assert again.flatten().tolist() == found != other.flatten().tolist()


def test_large_rows_are_changed_to_small_ones_a_piece_at_a_time(monkeypatch):
    data, asked = torch.arange(70.0).view(7, 10), []
    small = Changed(data, lambda part: asked.append(len(part)) or part.mean(1, keepdim=True))
    whole = small[torch.arange(7)]
    monkeypatch.setattr(rows, "PIECE_BYTES", 4 * 10 * 3)
    assert torch.equal(small[torch.arange(7)], whole)
    assert asked == [7, 3, 3, 1]
