"""What a check found, in words that are read in a minute."""

from __future__ import annotations

from generator.data_check import DataCheck
from manifests.terminal import counted

EXAMPLES = 3


def describe_check(check: DataCheck) -> list[str]:
    """Lines: what there is, what would spoil something, notes, and how it adds up."""
    name, counts = check.category.name, check.counts
    lines = [
        f"{name}: {counted(counts['train'], 'training image')}, {counts['test_good']} good and "
        f"{counts['test_defective']} defective test images (layout {check.category.format})"
    ]
    for finding in check.findings:
        lines.append(f"{name}: {'WRONG' if finding.spoils else 'note'}: {finding.title}")
        lines += [f"    {text}" for text, _ in finding.rows[:EXAMPLES]]
        if len(finding.rows) > EXAMPLES:
            lines.append(f"    ... and {len(finding.rows) - EXAMPLES} more (--json lists all)")
        if finding.advice:
            lines.append(f"  > {finding.advice}")
    wrong = sum(finding.spoils for finding in check.findings)
    notes = len(check.findings) - wrong
    verdict = "nothing would spoil a build or an evaluation"
    if wrong:
        verdict = f"{counted(wrong, 'thing')} would spoil a build or an evaluation"
    return [*lines, f"{name}: {verdict}; {counted(notes, 'note')}"]
