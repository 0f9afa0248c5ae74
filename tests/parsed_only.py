"""Commands of the pages that the tests read and do not run."""

from __future__ import annotations

PARSED_ONLY = {
    ("README.md", "python -m cahl_pl serve"): "serves until it is stopped; tests/commands/test_serve.py",
    ("agent.md", "python -m cahl_pl serve"): "serves until it is stopped; tests/commands/test_serve.py",
    (
        "agent.md",
        "python -m tools.quality.measure_serving",
    ): "needs a server and openai; tests/serving/test_clients.py plays its episodes",
    (
        "agent.md",
        "python -m tools.quality.measure_constrained",
    ): "needs llguidance; tests/tools/quality/test_measure_constrained.py runs a small one",
    (
        "agent.md",
        "python -m tools.quality.measure_invalid",
    ): "needs llguidance; tests/tools/quality/test_measure_invalid.py runs a small one",
    ("metrics.md", "python -m cahl_pl fit -c configs/quickstart.yaml --trainer.logger"): "needs wandb and mlflow; "
    "tests/cli/test_trackers.py",
    ("agent.md", "python -m vllm.entrypoints.openai.api_server"): "needs vllm; tests/engines/test_vllm.py starts one",
    (
        "agent.md",
        "python -m tools.quality.measure_native",
    ): "needs a server; tests/tools/quality/test_measure_native.py",
    ("benchmarks.md", "python -m cahl_pl test -c configs/bfcl.yaml"): "loads BFCL's tasks: minutes",
    ("benchmarks.md", "python -m cahl_pl test -c configs/cahl.yaml"): "runs all of BFCL: days",
    ("benchmarks.md", "python -m cahl_pl fit"): "needs API-Bank's files",
    ("benchmarks.md", "python -m cahl_pl test -c configs/smollm2.yaml"): "needs a real model and the benchmarks' files",
    (
        "benchmarks.md",
        "python -m cahl_pl results-table RUN...",
    ): "RUN stands for folders; tests/commands/test_results_table.py",
    ("hardware.md", "python -m tools.memory.check_memory_plan"): "measures processes of several GB for minutes",
    ("hardware.md", "python -m tools.memory.check_full_size"): "minutes; tests/tools/memory/test_check_full_size.py",
    ("hardware.md", "python -m tools.memory.prove_7b"): "writes a model of 15 GB",
    (
        "recipes.md",
        "python -m tools.quality.measure_tool_text",
    ): "needs three data sets; tests/tools/quality/test_measure_tool_text.py",
    ("recipes.md", "python -m cahl_pl sweep"): "hours; tests/commands/test_sweep.py runs a small one",
    ("reliability.md", "python -m tools.robustness.kill_and_resume"): "starts and kills processes for minutes",
    (
        "reliability.md",
        "python -m tools.robustness.measure_processes",
    ): "50 steps of two processes; tests/tools/robustness/test_measure_processes.py",
    ("reliability.md", "python -m tools.robustness.fuzz_coverage"): "needs atheris, and runs for minutes",
    ("log.md", "python -m tools.speed.benchmark_grpo"): "needs trl",
    ("log.md", "python -m tools.memory.check_full_size"): "minutes; tests/tools/memory/test_check_full_size.py",
    ("log.md", "python -m tools.speed.measure_decoding"): "minutes; tests/tools/speed/test_measure_decoding.py",
    ("log.md", "python -m tools.quality.check_templates"): "FOLDER stands for real templates; tests/tools/quality",
    ("log.md", "python -m tools.quality.show_mistakes"): "a minute; tests/tools/quality/test_show_mistakes.py",
    ("log.md", "python -m tools.quality.measure_serving"): "needs a server and openai; tests/serving/test_clients.py",
    ("log.md", "python -m tools.quality.measure_constrained"): "minutes; tests/tools/quality",
    ("log.md", "python -m tools.quality.measure_levels"): "FOLDER stands for adapters; tests/tools/quality",
    ("log.md", "python -m tools.quality.measure_invalid"): "minutes; tests/tools/quality/test_measure_invalid.py",
    ("README.md", "python -m tools.speed.benchmark_grpo"): "needs trl",
    ("speed.md", "python -m tools.speed.benchmark_grpo"): "needs trl",
    (
        "speed.md",
        "python -m tools.speed.profile_step",
    ): "minutes; tests/tools/speed/test_profile_step.py runs a small one",
    (
        "speed.md",
        "python -m tools.speed.measure_decoding",
    ): "minutes; tests/tools/speed/test_measure_decoding.py runs a small one",
    (
        "speed.md",
        "python -m tools.speed.benchmark_levels",
    ): "minutes; tests/tools/speed/test_levels_*.py run small ones",
    (
        "speed.md",
        "python -m tools.speed.benchmark_scaling",
    ): "minutes; tests/tools/speed/test_benchmark_scaling.py runs a small one",
    ("bases.md", "python -m tools.quality.check_bases"): "minutes; tests/policy run the same comparisons",
    (
        "bases.md",
        "python -m cahl_pl fit",
    ): "the tests' model does not think; tests/prompts and tests/rollout/test_thinking.py",
    ("log.md", "python -m tools.quality.check_bases"): "minutes; tests/policy run the same comparisons",
    ("log.md", "python -m tools.quality.measure_credit"): "minutes; tests/tools/quality/test_measure_credit.py",
    ("learning.md", "python -m tools.quality.measure_credit"): "minutes; tests/tools/quality/test_measure_credit.py",
    ("learning.md", "python -m tools.make.learning_figures"): "draws; tests/tools/make/test_learning_figures.py",
    ("results.md", "python -m cahl_pl compare"): "13 minutes a run; tests/commands/test_compare.py",
    ("results.md", "python -m cahl_pl cross-play"): "needs runs; tests/commands/test_cross_play.py",
    ("results.md", "python -m cahl_pl test"): "a minute each; tests/cli/test_checkpoints.py",
    ("results.md", "python -m cahl_pl fit -c configs/toolworld2.yaml"): "three minutes; tests/test_configs.py trains with both",
    ("results.md", "python -m cahl_pl export --out runs/toolworld2-b"): "needs that run; tests/commands/test_export.py",
    ("results.md", "python -m tools.quality.measure_levels"): "needs its adapters; tests/tools/quality/test_measure_levels.py",
    ("results.md", "python -m tools.make.results_figures"): "draws; tests/tools/make/test_results_figures.py",
    ("sandbox.md", "python -m timeit"): "needs Landlock; tests/environments/test_sandbox.py calls tools so",
    ("sandbox.md", "python -m tools.robustness.attack_sandbox"): "needs Landlock, and attacks the machine",
    (
        "hardware.md",
        "python -m cahl_pl fit -c configs/cahl.yaml --model.policy.quantization none",
    ): "needs two devices and a server; tests/test_sharded_training.py",
    ("hardware.md", "torchrun"): "needs two machines; tests/engines/test_lag_of_processes.py has two of one host",
    ("hardware.md", "python -m tools.robustness.cut_link"): "needs root; tests/tools/robustness/test_cut_link.py",
    ("hardware.md", "MASTER_ADDR="): "likewise",
    ("serving.md", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True python -m vllm"): "another program, in its own environment",
    ("serving.md", "python -m cahl_pl ask"): "needs a server; tests/commands/test_ask.py has one",
    ("serving.md", "python -m cahl_pl fit"): "needs a server",
    ("your-data.md", "python -m cahl_pl convert-data xlam hub:"): "needs the network",
    ("your-data.md", "python -m cahl_pl convert-data toolace hub:"): "needs the network",
    (
        "your-tools.md",
        "python -m cahl_pl fit -c configs/quickstart.yaml -c mcp.yaml",
    ): "needs an MCP server; tests/environments/test_mcp_training.py has one",
    (
        "your-data.md",
        "python -m tools.memory.measure_streaming",
    ): "minutes; tests/tools/memory/test_measure_streaming.py",
}
"""(page, how the command starts) -> why it does not run here."""
