"""The methods in a paragraph each, every number filled in; what is not known is left out."""

from pathlib import Path
from typing import Any

from grid.report.content import Run, Section, listed, path_of, some
from grid.report.groups import percent, unique
from lethe.corpora.parquet import read_json


def section(run: Run) -> Section | None:
    """None for a plan without a configuration."""
    config = run.plan.get("config") or {}
    records = _records(run)
    parts = [_models(run, config), _corpora(run, config, records), _grid(config), _training(config)]
    parts += [_interventions(config), _evaluation(config), _versions(records)]
    paragraphs = [part for part in parts if part]
    lead = "As it would stand in a paper; every number is from the plan and from what the stages recorded."
    return Section("methods", "Methods", lead, paragraphs=paragraphs) if paragraphs else None


def _models(run: Run, config: dict[str, Any]) -> str:
    told = []
    for name, model in run.plan["models"].items():
        shape = model.get("definition") or {}
        inside = f"{model['parameters']:,} parameters"
        if shape:
            inside += (
                f", {some(shape['layers'], 'layer')}, width {shape['d_model']}, {some(shape['heads'], 'head')}, "
                f"feed-forward {shape['d_ff']}, context {shape['context']} tokens"
            )
        told.append(f"{name} ({inside})")
    vocabulary = path_of(config, "tokenizer", "vocab_size")
    with_ids = f", over a byte-level BPE vocabulary of {vocabulary:,}" if vocabulary else ""
    return (
        f"Models. Decoder-only transformers with RMSNorm, rotary positions, SwiGLU and a tied embedding"
        f"{with_ids}: {listed(told)}."
    )


def _corpora(run: Run, config: dict[str, Any], records: list[dict[str, Any]]) -> str:
    found, sizes = config.get("corpora"), _sizes(run, records)
    told = [f"{name} ({sizes[name]})" if name in sizes else name for name in run.corpora]
    parts = [f"Corpora. {listed(told)}."]
    source = config.get("source")
    if isinstance(found, dict) and all(path_of(made, "dataset", "path") for made in found.values()):
        source = None  # nothing is cut from it
    if source == "sample":
        parts.append("Pages are from the built-in sample of templated text.")
    elif source:
        parts.append(f"Pages are from {Path(str(source)).name}.")
    for name, made in found.items() if isinstance(found, dict) else ():
        parts += [line for line in (_made(name, made),) if line]
    return " ".join(parts)


def _made(name: str, made: Any) -> str:
    """How a corpus was made, from its configuration."""
    if path := path_of(made, "dataset", "path") if isinstance(made, dict) else None:
        return f"{name} is the data set {path}."
    if not isinstance(made, dict) or "min_score" not in made:
        return ""
    words = len(made.get("words", []))
    return (
        f"A page belongs to {name} if its score from {words} words is {made['min_score']:g} or more; kept are pages in "
        f"{listed(made.get('languages', []))} (score {made.get('min_language_score', 0):g}) of "
        f"{made.get('min_characters', 0):,} to {made.get('max_characters') or 0:,} characters, without exact and near "
        f"duplicates, {100 * made.get('val_share', 0):g} % held out by host."
    )


def _grid(config: dict[str, Any]) -> str:
    if not config.get("baselines"):
        return ""
    stages = config.get("stage", {})
    told = []
    for name, parts in config["baselines"].items():
        chain = [" + ".join(part["mixture"]) for part in parts]
        tokens = [part.get("tokens") or stages.get("tokens", 0) * len(part["mixture"]) for part in parts]
        told.append(f"{name} ({', then '.join(f'{c}, {n:,} tokens' for c, n in zip(chain, tokens, strict=True))})")
    ratios, how = config.get("interleaving_ratios", []), stages.get("interleaving")
    kept = "so that the later stage keeps its token count" if how == "replace" else "on top of the later stage's tokens"
    mixed = f" At interleaving ratio r a share r of a later stage's tokens is old text, {kept}; r was "
    plain = "; an arm at 0 % without an intervention is called plain" if 0 in ratios else ""
    mixed = f"{mixed}{listed(map(percent, ratios))}{plain}." if ratios else ""
    seeds = config.get("seeds", [])
    return f"Sequences. {listed(told)}.{mixed} Seeds: {listed(seeds)}; a seed fixes initial weights and data order."


def _training(config: dict[str, Any]) -> str:
    stage = config.get("stage") or {}
    if "learning_rate" not in stage:
        return ""
    contexts = unique(model["context"] for model in config.get("models", {}).values())
    a_step = listed(f"{stage['batch'] * context:,}" for context in contexts)
    tail = f"then falling over the last {percent(stage['decay'])}" if stage.get("decay") else "then falling as a cosine"
    state = {"reset": "starts fresh", "carry": "is carried over"}.get(stage["optimizer_at_switch"], "")
    return (
        f"Training. AdamW with betas {listed(stage['betas'])}, weight decay {stage['weight_decay']:g}, gradients "
        f"clipped at {stage['clip']:g}; batches of {stage['batch']} sequences ({a_step} tokens a step); learning rate "
        f"{stage['learning_rate']:g}, rising over {percent(stage['warmup'])} of each stage, {tail} to "
        f"{percent(stage['floor'])} of it. A schedule belongs to its stage; the optimizer's state {state} at a switch. "
        f"Precision {stage['precision']}."
    )


def _interventions(config: dict[str, Any]) -> str:
    found = {k: v for k, v in (config.get("interventions") or {}).items() if v.get("kind") != "none"}
    if not found:
        return ""
    told = []
    for label, made in found.items():
        given = {key: value for key, value in made.get("parameters", {}).items() if value is not None}
        inside = ", ".join(f"{key} {_word(v)}" for key, v in given.items())
        told.append(f"{label} ({made['kind']}{': ' if inside else ''}{inside})")
    return f"Interventions, in the later stages. {'; '.join(told)}."


def _word(value: Any) -> str:
    return listed(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def _evaluation(config: dict[str, Any]) -> str:
    evaluation = path_of(config, "stage", "evaluation")
    if not evaluation:
        return ""
    also = ["monitors of drift from the model of A"] if evaluation.get("monitors") else []
    also += [f"{evaluation['probes']} facts a corpus asked as four-way choices"] if evaluation.get("probes") else []
    again = path_of(config, "stage", "relearning_tokens")
    contexts = unique(model["context"] for model in config.get("models", {}).values())
    tokens = listed(f"{evaluation['sequences'] * context:,}" for context in contexts)
    watched = "".join(f"; {each}" for each in also)
    branch = f" A side branch of {again:,} tokens learns the earlier corpus again." if again else ""
    return (
        f"Evaluation. Loss in nats per token on the same {evaluation['sequences']} held-out sequences of each "
        f"corpus ({tokens} tokens) at every mark, in float32, denser after a switch{watched}.{branch} Forgetting is "
        "the loss on an earlier corpus at the end minus its loss when its own stage ended; the gain lost is that over "
        "what its stage had gained beyond a model that did not see it. Intervals are Student's 95 % over seeds, "
        "which tell nothing of other held-out texts; comparisons are paired by seed."
    )


def _versions(records: list[dict[str, Any]]) -> str:
    made = [record.get("made_with", {}) for record in records]
    parts = []
    for key in ("lethe", "processor", "torch", "ranks", "threads"):
        found = unique(str(each[key]) for each in made if key in each)
        parts += [f"{key} {listed(found)}"] if found else []
    return f"Made with. {'; '.join(parts)}." if parts else ""


def _records(run: Run) -> list[dict[str, Any]]:
    """stage.json of the finished stages, where the stage store is beside the grid."""
    found = []
    for key in unique(run.results["stage_key"].dropna()) if "stage_key" in run.results else []:
        if record := read_json(run.folder.parent / "stages" / str(key) / "stage.json"):
            found.append(record)
    return found


def _sizes(run: Run, records: list[dict[str, Any]]) -> dict[str, str]:
    """Tokens and documents by corpus, where the token shards are beside the grid."""
    folders = unique(record["tokens_folder"] for record in records if "tokens_folder" in record)
    found = {}
    for name in run.corpora if len(folders) == 1 else ():
        path = run.folder.parent.parent / "data" / "tokens" / folders[0] / name / "meta.json"
        splits = (read_json(path) or {}).get("splits", {})
        if {"train", "val"} <= splits.keys():
            train, val = splits["train"], splits["val"]
            found[name] = (
                f"{train['tokens']:,} training tokens in {train['documents']:,} documents, "
                f"{val['tokens']:,} in {val['documents']:,} held out"
            )
    return found
