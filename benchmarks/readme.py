"""Writes `benchmarks/README.md` from the result files: every measurement of this project, in one place.

    python -m benchmarks.readme

README and docs link to it. A test holds the page to the result files, and the README's table to this page.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import demo, policy_by_critic, policy_evaluation
from benchmarks.harness import RESULTS, ROOT
from data_prep.files import write_text
from recipe.critic_r1.rehearsal.switches import every

PAGE = ROOT / "benchmarks" / "README.md"

Result = dict[str, Any]
Section = tuple[str, str, str, str, Callable[[Result], str]]
"""Title; result file; what is measured; arguments of `python -m benchmarks.`; the table of a result."""


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """`1,234`, `12.3`, `0.0123`; `-` for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def spread(found: dict[str, float]) -> str:
    """Median with the least and the largest value."""
    return f"{number(found['median'])} ({number(found['low'])} to {number(found['high'])})"


def share(found: dict[str, float]) -> str:
    """A share in percent with its interval."""
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _demo(result: Result) -> str:
    runs = [*result["runs"], result["control"]]
    names = [*(f"seed {run['seed']}" for run in result["runs"]), "control"]
    minutes = [[name, number(sum(run["stages"].values()) / 60), run["peak_memory_gb"], run["steps"],
                number(run["median_step_seconds"])] for name, run in zip(names, runs, strict=True)]  # fmt: skip
    cost = table(["run", "minutes", "peak memory, GB", "steps", "median step, s"], minutes)
    return f"{demo.table(result)}\n\n{cost}"


def _critic(result: Result) -> str:
    names = ("critic/accuracy", "critic/accuracy_both_orders", "critic/swap_consistency", "critic/position_bias")
    rows = [[name, *(share(result[stage][name]) for stage in ("before", "after"))] for name in names]
    test = result["change"]["mcnemar"]
    change = share(result["change"]["accuracy"]["difference"])
    told = f"Accuracy changes by {change} points; McNemar p = {test['p_value']:.1g}."
    return f"{told}\n\n{table(['%', 'before', 'after'], rows)}"


def _best_of_n(result: Result) -> str:
    metrics = result["after"]["metrics"]
    rows = [[name, *(share(result[stage]["metrics"][name]) for stage in ("before", "after"))] for name in metrics]
    return table(["%", "before", "after"], rows)


def _self_improvement(result: Result) -> str:
    labels, stages = result["labelled"], ("before", "after")
    rows = [[name, *(share(result["critic"][stage][name]) for stage in stages)] for name in result["critic"]["after"]
            if name in ("critic/accuracy", "critic/swap_consistency")]  # fmt: skip
    rows += [[name, *(share(result["best_of_8"][stage][name]) for stage in stages)]
             for name in ("best_of_8/one_sample", "best_of_8/majority", "best_of_8/knock_out")]  # fmt: skip
    right = f"of the labels that can be checked {share(labels['of them right'])} % are right"
    told = f"{labels['labelled']:,} pairs are labelled; {right}."
    return f"{told}\n\n{table(['%', 'before', 'after'], rows)}"


def _self_critique(result: Result) -> str:
    heads = ["way", "seconds", "tokens read", "tokens read per judgement"]
    rows = [[name, found["seconds"], f"{found['prefilled_tokens']:,}", found["prefilled_tokens_per_judgement"]]
            for name, found in result["ways"].items()]  # fmt: skip
    ratio = result["obvious / ours"]
    rows.append(
        ["obvious / ours", ratio["seconds"], ratio["prefilled_tokens"], ratio["prefilled_tokens_per_judgement"]]
    )
    return table(heads, rows)


def _images(result: Result) -> str:
    rows = []
    for point in result["points"]:
        beyond = point.get("ratio_beyond_text", {})
        units = {"host_cpu_seconds_per_rollout": 1e-3, "queue_bytes_per_rollout": 1e6, "step_memory_bytes": 1e9}
        values = [(*(number(point[path][name] / unit) for path in ("stock", "shared")), point["ratio"][name])
                  for name, unit in units.items()]  # fmt: skip
        cells = [f"{stock} / {shared} = {ratio}" for stock, shared, ratio in values]
        more = [number(ratio) for ratio in beyond.values()]
        rows.append([point["size"], point["n"], *cells, " / ".join(more) if beyond else ""])
    heads = [
        "image",
        "n",
        "host CPU, ms a rollout",
        "queue, MB a rollout",
        "memory of a step, GB",
        "ratios beyond text",
    ]
    seconds = result["processor_seconds_per_megapixel"].items()
    passes = ", ".join(f"{size} {number(found)} s" for size, found in seconds)
    told = f"\n\nOne pass of the image processor takes, per megapixel: {passes}."
    return f"`stock` / `shared` = ratio.\n\n{table(heads, rows)}{told}"


def _step_time(result: Result) -> str:
    parts = ("step", "gen", "old_log_prob", "ref", "update_actor", "update_weights")
    rows = [[name, *(spread(found["seconds"][part]) for part in parts), number(found["start_up_seconds"])]
            for name, found in result["variants"].items()]  # fmt: skip
    same = result["same_result"]
    differs = table(["metric", "largest difference"], [[k, f"{v:.1g}"] for k, v in same["largest_difference"].items()])
    imports = result["import_seconds"]
    return (
        f"{table(['path, s', *parts, 'start-up'], rows)}\n\n"
        f"`stock` and `once` with the same samples, {same['steps']} steps:\n\n"
        f"{differs}\n\nImports of a process take {imports['stock']} s, and {imports['here']} s without scikit-learn."
    )


def _shared_prompt(result: Result) -> str:
    rows = []
    for point in sorted(result["points"], key=lambda point: (point["n"], point["prompt_tokens"])):
        seconds = [sum(found["cpu_seconds"] for found in point[path].values()) for path in ("stock", "once")]
        ratios = [point[f"{name}_ratio"] for name in ("time", "memory", "tokens")]
        apart = [f"{point[f'{name}_differ_by']:.0e}" for name in ("log_probs", "gradients")]
        rows.append([number(point["prompt_tokens"]), point["n"], *map(number, ratios), *map(number, seconds), *apart])
    heads = ["prompt tokens", "n", "times less time", "times less memory", "times fewer tokens", "CPU s, stock",
             "CPU s, once", "log-probabilities differ by", "gradients differ by"]  # fmt: skip
    return f"{table(heads, rows)}\n\n![Ratios over the length of the prompt](results/shared_prompt.svg)"


def _million(result: Result) -> str:
    rows = [[f"{int(n):,}", number(found["seconds"]), f"{found['rows_per_s']:,}", number(found["peak_mb"])]
            for n, found in result["by_rows"].items()]  # fmt: skip
    restart = result["restart"]
    return (
        f"{table(['rows', 'seconds', 'rows a second', 'largest process, MB'], rows)}\n\n"
        f"Killed after {restart['units_done_when_killed']} of {restart['units']} units, the restarted conversion took "
        f"{number(restart['seconds_after_restart'])} s and wrote the same bytes."
    )


def _convert(result: Result) -> str:
    ways = ("ours_plain", "ours_hashes", "ours_hashes_length")
    parts = []
    for name, found in result["ratios"].items():
        rows = [
            [other, *(spread(found[f"{way} / {other}"]) for way in ways)] for other in ("stock", "undecoded", "copy")
        ]
        parts.append(table([f"{name}: times as fast as", "no hashes", "hashes", "hashes and lengths"], rows))
    per_row = result["us_per_row"]
    rows = [[way, *(spread(found[way]) for found in per_row.values())] for way in next(iter(per_row.values()))
            if all(way in found for found in per_row.values())]  # fmt: skip
    parts.append(table(["µs a row", *per_row], rows))
    peaks = ", ".join(f"{int(rows_):,} rows {number(peak)} MB" for rows_, peak in result["peak_mb_by_rows"].items())
    named = ", ".join(f"{int(n):,} rows {number(peak)} MB" for n, peak in result["peak_mb_by_rows_named"].items())
    workers = f"Two workers are {spread(result['two_workers']['over_one'])} times as fast as one on one core."
    parts.append(f"Peak memory: {peaks}; images by name, 4 megapixels each: {named}. {workers}")
    return f"{result['rows']:,} images of {result['image_kb']} kB.\n\n" + "\n\n".join(parts)


def _length(result: Result) -> str:
    heads = ["images", "verl, rows/s", "ours, rows/s", "times as fast", "rows", "disagreements"]
    keys = ("verl_rows_per_s", "ours_rows_per_s", "times_as_fast", "rows", "disagreements")
    return table(heads, [[name, *(number(case[key]) for key in keys)] for name, case in result["cases"].items()])


def _reward(result: Result) -> str:
    names = list(result["speed"])
    keys = ("mean_us", "median_us", "p99_us")
    rows = [[name, *(number(found[key]) for key in keys)] for name, found in result["speed"].items()]
    speed = table(["µs a call", "mean", "median", "p99"], rows)
    rows = [[name, number(one["us_at_1m"] / 1e3), number(one["ratio"])] for name, one in result["doubling"].items()]
    growth = table(["text", "1 million characters, ms", "over half a million"], rows)
    limit = f"over {result['hostile_time_out_seconds']:.0f} s"
    costs = table(["30,000 characters, ms", *names], [
        [what, *(limit if one[n] is None else number(1e3 * one[n]) for n in names)]
        for what, one in result["hostile_30k_chars_seconds"].items()
    ])  # fmt: skip
    fuzz = f"{result['fuzz']['responses']:,} random responses: {result['fuzz']['failures']} failures."
    told = f"{number(result['speed_up_over_release'])} times as fast as the release's reward. {fuzz}"
    return f"{told}\n\n{speed}\n\n{growth}\n\n{costs}"


def _faults(result: Result) -> str:
    rows = [[kind, found["tried"], found["failed"]] for kind, found in result["kinds"].items()]
    return table(["kind", "situations", "lost"], [*rows, ["all", *(sum(row[i] for row in rows) for i in (1, 2))]])


def _cluster(result: Result) -> str:
    rows = []
    for name in ("two_nodes_against_one_node", "disturbed_against_two_nodes"):
        found = result[name]
        worst = max(found["largest_relative_difference"].values())
        rows.append([name.replace("_", " "), f"{100 * found['equal_responses']:.0f} %", found["rows_of_one_run_only"],
                     "yes" if found["each_step_once"] else "no", f"{worst:.1g}"])  # fmt: skip
    heads = ["runs", "equal responses", "rows of one run only", "each step once", "largest relative difference"]
    events = table(["disturbance", "after step", "resumed from", "seconds to the next step"], [
        [e["what"], e["after_step"], e["resumed_from"], e["seconds_to_the_next_step"]]
        for e in result["runs"]["disturbed"]["events"]
    ])  # fmt: skip
    return f"{table(heads, rows)}\n\n{events}"


def _gpu_switches(result: Result) -> str:
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in result["cells"]:
        name = tuple(cell[part] for part in ("config", "cluster", "tuning"))
        told = cell.get("error") or f"runs; {cell['log_probs']:.1g} / {cell['loss']:.1g} / {cell['grad_norm']:.1g}"
        rows.setdefault(name, {})[cell["precision"]] = told
    precisions = ("fp32", "bf16")
    cells = [[" ".join(name), *(found.get(precision, "-") for precision in precisions)] for name, found in rows.items()]
    told = f"{len(result['cells'])} of the {len(every())} cells of the matrix were run."
    return f"{told}\n\n{table(['configuration, cluster, tuning', *precisions], cells)}"


SECTIONS: list[Section] = [
    (
        "The demo on fresh seeds",
        "demo_fresh_seeds.json",
        "Before → after; mean change with a 95 % interval over seeds; the control trains on labels half flipped.",
        "demo --seed 3 --seed 4 --seed 5 --control-seed 3 --out benchmarks/results/demo_fresh_seeds.json",
        _demo,
    ),
    (
        "The demo on the seeds of the search",
        "demo.json",
        "The same with the seeds that were in view when the settings were chosen.",
        "demo",
        _demo,
    ),
    (
        "Critic benchmark on a served model",
        "served_critic.json",
        "The demo's model before and after training, by `critic-r1 judge`.",
        "critic_server critic runs/demo",
        _critic,
    ),
    (
        "Best of N on a served model",
        "served_best_of_n.json",
        "All selectors on the same candidates, by `critic-r1 best-of-n`.",
        "critic_server best-of-n runs/demo",
        _best_of_n,
    ),
    (
        "One round of self-improvement",
        "self_improvement.json",
        "The trained model labels its own answers and trains on the labels.",
        "critic_server self-improvement runs/demo",
        _self_improvement,
    ),
    (
        "A critic that trains its policy",
        "policy_by_critic.json",
        "From the demo's trained model, 30 steps on the questions about its training images; only `truth` is "
        "paid by their answers. Changes on held-out images, with a 95 % interval over seeds where there are "
        "several; seed 0 was seen while the demo's settings were chosen. `frozen` is paid by the critic that "
        "the model was at the start, `self` by the present one, `self_mixed` by the present one while "
        "labelled critic rows keep it in training, `second` is another round from where `frozen` ended, "
        "`shuffled` and `majority` are controls. Plain GRPO is `truth`. Run beside other work, so that "
        "seconds are those of a busy machine; the machine named is that of the last run.",
        "policy_by_critic",
        policy_by_critic.table,
    ),
    (
        "A knock-out tournament",
        "self_critique.json",
        "Against one judgement at a time with the responses first.",
        "self_critique",
        _self_critique,
    ),
    (
        "Policy evaluation by lmms-eval",
        "policy_evaluation.json",
        "`critic-r1 eval-policy` against the demo's own evaluation.",
        "policy_evaluation",
        policy_evaluation.table,
    ),
    (
        "Images on the host",
        "images.json",
        "verl's own path (`stock`) and ours (`shared`) in real training runs on a CPU.",
        "images",
        _images,
    ),
    ("Time of a training step", "step_time.json", "The demo's training on a CPU, in seconds.", "step_time", _step_time),
    (
        "A prompt computed once",
        "shared_prompt.json",
        "Old log-probabilities, reference and update together, in verl's engine: `prompt_path` stock against once. "
        "Responses of 200 to 250 tokens; the gradients' difference is relative, of the worst parameter. "
        "One run, beside other work on the machine.",
        "shared_prompt --out benchmarks/results/shared_prompt.json",
        _shared_prompt,
    ),
    (
        "Conversion",
        "convert.json",
        "Against the `datasets` pattern with decoding (stock) and without (undecoded), and a bare copy.",
        "convert",
        _convert,
    ),
    (
        "A million rows",
        "million.json",
        "Rows of MMPR's shape with small images, two workers, hashes. One run, beside other work on the machine.",
        "million",
        _million,
    ),
    ("Prompt lengths", "length.json", "Header arithmetic against verl's filter, on one core.", "length", _length),
    ("Rewards", "reward.json", "Speed, growth with length, hostile texts, random texts.", "reward", _reward),
    (
        "Switches of the GPU configurations",
        "gpu_switches.json",
        "Two steps of verl's actor and reference workers on two gloo ranks of a CPU, with tiny models of each family. "
        "Largest difference of a log-probability, relative difference of loss and gradient norm from the padded "
        "float32 path. Larger clusters, and `tuning=async`, have the engine of `1x8 release`.",
        "gpu_switches --again",
        _gpu_switches,
    ),
    (
        "Two Ray nodes",
        "cluster.json",
        "With a seed for each rollout, compared response by response.",
        "cluster",
        _cluster,
    ),
    (
        "Faults of servers, files and rows",
        "faults.json",
        "Cases of the tests by kind; a lost one ends in another way than it should.",
        "faults",
        _faults,
    ),
]


def load(name: str) -> Result:
    """A committed result file."""
    found: Result = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def _made_on(result: Result) -> str:
    machine = result.get("machine")
    if isinstance(machine, dict):
        cores = f", {machine['cores']} cores, {machine['memory_gb']} GB" if "cores" in machine else ""
        return f" Machine: {machine['cpu']}{cores}, Python {machine['python']}."
    return f" Machine: {machine}." if machine else ""


def page() -> str:
    """The text of the page."""
    parts = [
        "# Measurements",
        "Written by `python -m benchmarks.readme` from `benchmarks/results/*.json`; do not edit. Brackets: 95 % "
        "intervals, over images unless said otherwise. Parentheses: least and largest of the repeats. Each section "
        "names the command that measures it again; `runs/demo` is a finished `critic-r1 demo`.",
    ]
    for title, name, what, command, write in SECTIONS:
        result = load(name)
        told = f"{what}{_made_on(result)}\n\n`python -m benchmarks.{command}` writes `results/{name}`."
        parts.append(f"## {title}\n\n{told}\n\n{write(result)}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)
