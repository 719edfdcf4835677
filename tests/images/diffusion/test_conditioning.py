"""What the UNet is told of a prompt, and what the user is told of a prompt that is too long."""

import pytest
import torch

from illustrious.images.diffusion.conditioning import TextEncoder, condition, truncations
from tests import tiny

Encoders = tuple[TextEncoder, TextEncoder]


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    pipeline = tiny.Tiny().pipeline().to(torch.float32)
    return (
        TextEncoder(pipeline.tokenizer, pipeline.text_encoder.eval()),
        TextEncoder(pipeline.tokenizer_2, pipeline.text_encoder_2.eval()),
    )


def test_one_row_without_a_negative_prompt_and_two_with_it_first(encoders: Encoders) -> None:
    alone = condition(encoders, "a cat", None, (64, 32), zeros_for_empty_negative=True)
    assert (alone.embeddings.shape, alone.pooled.shape) == ((1, 77, 128), (1, 32))
    assert alone.sizes.tolist() == [[32, 64, 0, 0, 32, 64]]
    both = condition(encoders, "a cat", "a dog", (64, 32), zeros_for_empty_negative=True)
    assert both.embeddings.shape == (2, 77, 128)
    assert torch.equal(both.embeddings[1:], alone.embeddings)
    assert torch.equal(both.pooled[1:], alone.pooled)
    dog = condition(encoders, "a dog", None, (64, 32), zeros_for_empty_negative=True)
    assert torch.equal(both.embeddings[:1], dog.embeddings)


def test_an_empty_negative_prompt_is_zeros_where_the_model_learned_it_so(encoders: Encoders) -> None:
    zeros = condition(encoders, "a cat", "", (64, 64), zeros_for_empty_negative=True)
    assert not zeros.embeddings[0].any()
    assert not zeros.pooled[0].any()
    empty = condition(encoders, "a cat", "", (64, 64), zeros_for_empty_negative=False)
    assert empty.embeddings[0].any()


def test_a_prompt_of_exactly_the_length_is_whole_and_one_word_more_is_named(encoders: Encoders) -> None:
    full = "cat " * 75
    assert truncations(encoders, full, None) == []
    (warning,) = truncations(encoders, full + "Dog, 猫", None)
    assert "75 tokens" in warning
    assert repr("Dog, 猫") in warning


def test_both_prompts_are_looked_at(encoders: Encoders) -> None:
    prompt, negative = "cat " * 75 + "one", "cat " * 75 + "two"
    first, second = truncations(encoders, prompt, negative)
    assert first.startswith("The prompt")
    assert second.startswith("The negative prompt")
    assert "'one'" in first
    assert "'two'" in second


def test_the_words_that_are_lost_do_not_act(encoders: Encoders) -> None:
    kept = condition(encoders, "cat " * 75, None, (64, 64), zeros_for_empty_negative=True)
    longer = condition(encoders, "cat " * 75 + "dog", None, (64, 64), zeros_for_empty_negative=True)
    assert torch.equal(kept.embeddings, longer.embeddings)
