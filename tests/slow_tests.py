"""What `make test` leaves to `make test-slow`: tests that take longest, and further cases of tests that have many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

# How many cases of each test `make test` runs, the first ones; of none, its subject is tried by quicker tests, too.
# A file stands for all of its tests.
QUICK = {
    "test_app_page": 0,
    "test_baselines::test_a_killed_training_goes_on": 1,
    "test_baselines::test_learning_lowers_the_training_loss": 2,
    "test_baselines::test_the_shared_model_is_left_as_it_was": 2,
    "test_baselines::test_what_is_learned_follows_from_the_seed": 1,
    "test_baselines_in_families::test_a_cache_beside_the_familys_own_logits": 4,
    "test_baselines_in_families::test_adapted_features_have_the_familys_own_logits": 4,
    "test_baselines_in_families::test_gaussians_beside_the_familys_own_logits": 4,
    "test_capabilities::test_a_cell_says_what_happens": 40,
    "test_cli_export::test_images_with_any_number_of_labels_have_no_such_accuracy": 0,
    "test_cli_masks::test_a_graph_gives_the_adapters_logits_and_its_miou": 0,
    "test_cli_process::test_output_that_is_not_read_ends_quietly": 1,
    "test_cli_videos::test_a_graph_answers_as_the_adapter_does": 0,
    "test_compositions::test_the_numbers_are_those_of_all_scores_at_once": 2,
    "test_contract::test_disabled_it_is_the_base_model": 26,
    "test_contract::test_gradient_checkpointing_changes_no_gradient": 26,
    "test_contract::test_saved_and_loaded": 26,
    "test_contract::test_training_reaches_what_it_learns_and_nothing_else": 26,
    "test_contract::test_unload_gives_the_base_model_back": 26,
    "test_deep_methods::test_compiled_evaluation": 0,
    "test_demo_compositions::test_loading_twice_gives_the_same_images": 0,
    "test_demo_pretraining::test_smoke_run_saves_a_model_that_loads": 0,
    "test_demo_tasks::test_loading_twice_gives_the_same_images": 0,
    "test_distributed": 0,
    "test_examples::test_augmented_views_compares_five_ways": 0,
    "test_examples::test_base_to_new_prints_its_table_and_draws": 0,
    "test_examples::test_benchmark_measures_three_forms_and_two_sources_of_features": 0,
    "test_examples::test_demo_learning_rates_tries_images_that_nothing_was_learned_from": 0,
    "test_examples::test_domain_generalisation_from_imagenet": 0,
    "test_examples::test_domain_generalisation_tests_on_changed_images": 0,
    "test_examples::test_method_comparison_fills_in_what_is_missing": 0,
    "test_examples::test_siglip_learning_rate_compares_three_losses": 0,
    "test_families::test_a_trainer_step": 3,
    "test_families::test_gradients_reach_what_is_learned_alone": 24,
    "test_handler::test_a_fresh_process_answers_as_the_model": 0,
    "test_hub::test_a_prompt_is_pushed_and_loaded_with_its_lora": 0,
    "test_hub::test_methods_go_to_the_hub_and_back": 0,
    "test_hub::test_push_with_xet_and_files_inline": 0,
    "test_hub::test_the_command_line_pushes_a_saved_prompt": 0,
    "test_hub::test_trainer_pushes_and_keeps_its_results": 0,
    "test_loading::test_nor_is_training_resumed_from_it": 1,
    "test_onnx_folder::test_a_prompt_that_looks_at_each_image_has_its_text_tower_in_the_graph": 0,
    "test_pixels::test_a_protocol_trains_and_classifies_pixels": 2,
    "test_plots::test_files": 2,
    "test_plots::test_nothing_is_cut_off": 1,
    "test_plots::test_numbers_above_bars_never_touch": 1,
    "test_prompt_aggregation::test_a_resumed_training_goes_on_with_its_sum": 1,
    "test_protocols::test_a_killed_training_goes_on_to_the_same_prompt": 1,
    "test_protocols::test_each_method_is_carried_over_from_a_model_of_two_layers": 2,
    "test_protocols::test_views_for_every_epoch_learn_what_pixels_do": 1,
    "test_segmentation::test_a_run_that_was_stopped_goes_on_to_the_same_numbers": 1,
    "test_text_cache::test_a_changed_weight_changes_the_features": 6,
    "test_tower_tuning::test_they_train_what_they_should_in_every_family": 3,
    "test_trainer::test_bf16": 3,
    "test_trainer::test_compiled_evaluation": 1,
    "test_trainer::test_compiled_training_step": 1,
    "test_trainer::test_gradient_accumulation_in_the_trainer": 2,
    "test_trainer::test_gradient_checkpointing_in_the_trainer": 2,
    "test_trainer::test_inductor_in_the_trainer": 0,
    "test_trainer::test_loss_falls": 4,
    "test_whole_graph::test_every_method": 4,
}


def mark_slow(items: Sequence[pytest.Item]) -> set[str]:
    """Mark what `make test` leaves out.

    Args:
        items: the tests that were collected, in their order.

    Returns:
        The entries of `QUICK` that no test has, but for those of files that were left out as a whole.
    """
    seen: Counter[str] = Counter()
    for item in items:
        name = f"{item.path.stem}::{getattr(item, 'originalname', item.name)}"
        for entry in {name, item.path.stem} & QUICK.keys():
            seen[entry] += 1
            if seen[entry] > QUICK[entry]:
                item.add_marker(pytest.mark.slow)
    left_out = {path.stem for path in Path(__file__).parent.glob("test_*.py")} - {item.path.stem for item in items}
    return {entry for entry in QUICK.keys() - seen.keys() if entry.partition("::")[0] not in left_out}
