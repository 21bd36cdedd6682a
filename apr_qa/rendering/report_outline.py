"""What the renderings have in common: the numbers and groups of one run, counted once for all of them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from apr_qa.reports import GateInfo, Run
from apr_qa.vocabulary import DEVICES, FILE_MODALITIES, FORMATS, MODALITIES, Evidence, Outcome

UNMEASURED = "–"


@dataclass
class Cell:
    """One place of the matrix and what was found there."""

    format: str
    device: str
    modality: str
    counts: Counter[Outcome] = field(default_factory=Counter)
    reason: str = ""
    """Why the cell holds nothing that counts."""

    @property
    def held(self) -> int:
        return self.counts[Outcome.CORROBORATED]

    @property
    def counted(self) -> int:
        return sum(number for outcome, number in self.counts.items() if outcome.counted)

    @property
    def state(self) -> str:
        """Return ``held``, ``failed``, ``doubtful``, ``skipped``, ``inapplicable`` or ``untried``."""
        if any(number and outcome.failed for outcome, number in self.counts.items()):
            return "failed"
        if self.counted:
            return "held" if self.held == self.counted else "doubtful"
        if self.counts[Outcome.SKIPPED]:
            return "skipped"
        return "inapplicable" if self.counts[Outcome.INAPPLICABLE] else "untried"


@dataclass(frozen=True)
class Matrix:
    """Cells by format and device; None where nothing was planned."""

    modalities: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell | None, ...]], ...]
    notes: tuple[str, ...]
    """The different reasons for which cells hold nothing that counts; a cell refers to its place."""


@dataclass(frozen=True)
class GateBlock:
    """One gate with its numbers, and its entries as far as they are kept."""

    info: GateInfo
    outcome: str
    reason: str
    counts: Counter[Outcome]
    entries: tuple[Evidence, ...]


@dataclass(frozen=True)
class Speed:
    """Medians over the entries of one cell that were measured; None where none was."""

    format: str
    device: str
    modality: str
    tokens_per_s: float | None
    first_token_s: float | None
    entries: int


def matrix(run: Run) -> Matrix:
    """Return the planned cells and those that have evidence, file claims included."""
    cells = {key: Cell(*key) for key in (_parts(text) for text in run.header.cells)}
    for group in sorted(run.tally.all.groups, key=lambda group: reading_order(group.first)):
        entry = group.first
        target = entry.scenario.target
        cell = cells.setdefault(
            (target.format, target.backend, target.modality),
            Cell(target.format, target.backend, target.modality),
        )
        cell.counts[entry.outcome] += group.count
        if not entry.outcome.counted and not cell.reason:
            cell.reason = entry.reason
    for cell in cells.values():
        cell.reason = "" if cell.counted else cell.reason or "planned, but there is no evidence"
    seen = {key[2] for key in cells}
    modalities = tuple(name for name in MODALITIES if name in seen)
    modalities += tuple(sorted(seen - set(MODALITIES), key=_rank(FILE_MODALITIES)))
    pairs = sorted(
        {key[:2] for key in cells}, key=lambda pair: (_rank(FORMATS)(pair[0]), _rank(DEVICES)(pair[1]))
    )
    rows = tuple(
        (form, dev, tuple(cells.get((form, dev, name)) for name in modalities)) for form, dev in pairs
    )
    notes = tuple(dict.fromkeys(cell.reason for _, _, row in rows for cell in row if cell and cell.reason))
    return Matrix(modalities, rows, notes)


def gate_blocks(run: Run) -> list[GateBlock]:
    """Return every gate that is no gateway, in the order of the verdicts, each with its entries."""
    grouped: defaultdict[str, list[Evidence]] = defaultdict(list)
    for entry in run.evidence:
        grouped[entry.gate_id].append(entry)
    counts: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    for group in run.tally.all.groups:
        counts[group.first.gate_id][group.first.outcome] += group.count
    verdicts = {verdict.gate_id: verdict for verdict in run.verdicts}
    gateways = gateway_ids(run)
    blocks = []
    for gate_id in dict.fromkeys([*verdicts, *sorted(grouped)]):
        entries, verdict = grouped.get(gate_id, []), verdicts.get(gate_id)
        if gate_id in gateways and not entries:
            continue
        blocks.append(
            GateBlock(
                info=gate_info(run, gate_id),
                outcome=word(verdict.outcome if verdict else None),
                reason=verdict.reason if verdict else "no verdict",
                counts=counts[gate_id],
                entries=tuple(entries),
            )
        )
    return blocks


def gate_info(run: Run, gate_id: str) -> GateInfo:
    """Return what is known about a gate id, with a hypothesis that says so where nothing is."""
    if gate_id in run.gates:
        return run.gates[gate_id]
    severity = next((verdict.severity.value for verdict in run.verdicts if verdict.gate_id == gate_id), "")
    return GateInfo(
        id=gate_id, hypothesis="This gate is not registered in this installation.", severity=severity
    )


def gateway_ids(run: Run) -> list[str]:
    """Return the ids of the gateways as the certificate lists them."""
    return [gateway["id"] for gateway in run.certificate.get("gateways") or ()]


def reading_order(entry: Evidence) -> tuple[str, ...]:
    """Return what entries are sorted by for a reader: where it was, then about what."""
    target = entry.scenario.target
    return (target.format, target.quantization, target.backend, target.modality, entry.gate_id, entry.id)


def is_doubt(entry: Evidence) -> bool:
    """Say whether an entry counts and is not corroborated."""
    return entry.outcome.counted and entry.outcome is not Outcome.CORROBORATED


def findings_by_gate(run: Run) -> Counter[str]:
    """Return how many findings each gate has, those that are not kept included."""
    found: Counter[str] = Counter()
    for group in run.tally.all.where(is_doubt).groups:
        found[group.first.gate_id] += group.count
    return found


def findings(run: Run) -> list[Evidence]:
    """Return the counted entries that are not corroborated and are kept: P0 first, failures before doubts."""
    doubts = [item for item in run.evidence if is_doubt(item)]
    return sorted(doubts, key=lambda item: (item.severity, not item.outcome.failed, item.gate_id, item.id))


def outcome_counts(run: Run) -> Counter[Outcome]:
    """Return how many entries have each outcome."""
    return run.tally.outcomes()


def speeds(run: Run) -> list[Speed]:
    """Return the median speed of every cell in which any was measured."""
    by_cell = run.tally.all.by(_cell_of)
    found = [
        Speed(
            *key,
            own.median("rates"),
            own.median("firsts"),
            max(own.measured("rates"), own.measured("firsts")),
        )
        for key, own in by_cell.items()
        if own.measured("rates") or own.measured("firsts")
    ]
    return sorted(
        found,
        key=lambda one: (
            _rank(MODALITIES)(one.modality),
            _rank(FORMATS)(one.format),
            _rank(DEVICES)(one.device),
        ),
    )


def _cell_of(entry: Evidence) -> tuple[str, str, str]:
    target = entry.scenario.target
    return target.format, target.backend, target.modality


def limits(run: Run) -> list[str]:
    """Return, in sentences, what the verdict does not prove."""
    counts, certificate = outcome_counts(run), run.certificate
    counted = sum(number for outcome, number in counts.items() if outcome.counted)
    sentences = [
        f"It rests on {counted:,} tried claims, in {coverage(run)} planned cells; nothing outside them "
        "was looked at."
    ]
    upper = certificate.get("failure_rate_upper_95")
    if upper is not None:
        sentences.append(
            f"As many as {percent(upper, up=True)} of further claims of this kind may fail "
            "(one-sided 95 % Clopper–Pearson bound)."
        )
    for outcome, meaning in (
        (Outcome.INAPPLICABLE, "could not be tried on this machine, which is not a pass"),
        (Outcome.SKIPPED, "did not run because the run was stopped"),
        (Outcome.INCONCLUSIVE, "could not be judged, which counts against the rate"),
    ):
        if counts[outcome]:
            sentences.append(f"{counts[outcome]:,} claim{'s' * (counts[outcome] != 1)} {meaning}.")
    if certificate.get("ground_truth", "safetensors") != "safetensors":
        sentences.append(f"The ground truth is itself {certificate['ground_truth']}.")
    return sentences


def coverage(run: Run) -> str:
    """Return covered and planned cells as ``7 of 18``."""
    share = run.certificate.get("coverage") or {}
    return f"{share.get('covered', UNMEASURED)} of {share.get('planned', UNMEASURED)}"


def categories(run: Run) -> list[tuple[str, str, str]]:
    """Return (name, rate, entries) of each category; a dash where nothing counts."""
    rows = []
    for name, share in (run.certificate.get("categories") or {}).items():
        entries = (share or {}).get("n") or 0
        rows.append((name, percent(share["rate"]) if entries else UNMEASURED, str(entries)))
    return rows


def facts(run: Run) -> dict[str, str]:
    """Return the verdict in words and numbers, in the order in which a reader asks for them."""
    certificate, counts = run.certificate, outcome_counts(run)
    score = certificate.get("score")
    counted = sum(number for outcome, number in counts.items() if outcome.counted)
    return {
        "status": str(certificate.get("status") or UNMEASURED),
        "score": UNMEASURED if score is None else str(score),
        "grade": str(certificate.get("grade") or UNMEASURED),
        "tier": run.header.tier.value,
        "rate": percent(certificate.get("rate")),
        "claims held": f"{counts[Outcome.CORROBORATED]:,} of {counted:,}",
        "coverage": f"{coverage(run)} cells",
        "failure rate, 95 % upper bound": percent(certificate.get("failure_rate_upper_95"), up=True),
    }


def percent(value: float | None, *, up: bool = False) -> str:
    """Return a share in per cent with one decimal, rounded towards caution: down, or up for a bound."""
    if value is None:
        return UNMEASURED
    thousandths = math.ceil(value * 1000 - 1e-9) if up else math.floor(value * 1000 + 1e-9)
    return f"{thousandths / 10:.1f} %"


def word(outcome: Outcome | str | None) -> str:
    """Return the word of an outcome; nothing speaking for a gate is ``unproven``."""
    return str(outcome) if outcome else "unproven"


def slug(text: str) -> str:
    """Return ``text`` reduced to what an identifier in a document may hold."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def _parts(cell: str) -> tuple[str, str, str]:
    form, device, modality = [*cell.split("·"), "", ""][:3]
    return form, device, modality


def _rank(order: Iterable[str]) -> Any:
    """Return a sort key that puts the words of ``order`` first and the others after them by name."""
    places = {name: place for place, name in enumerate(order)}
    return lambda name: (places.get(name, len(places)), name)
