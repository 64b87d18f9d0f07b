"""The command of `cutswap-gen` that lists kinds of negatives."""

from __future__ import annotations

import click

from manifests import command_line as common

_NEEDS = {"clusters": "saliency", "saliency": "saliency", "donors": "donors"}
"""What policies read, as a user has to think of it."""


@click.command()
@common.json_option
@common.domain_errors
def policies(as_json: bool) -> None:
    """List the kinds of negatives and what they need.

    Saliency takes a pass through a network. Donors are other images that are mixed in: good images
    of the same set, patterns (build --donors procedural) or a folder of textures (--textures DIR).

    \b
    cutswap-gen policies
    """
    from generator.policies import POLICIES

    width = max(map(len, POLICIES))

    def needed(name: str) -> list[str]:
        return sorted({_NEEDS[need] for need in POLICIES[name].needs}, reverse=True)

    def words(name: str) -> list[str]:
        one = POLICIES[name]
        needs = " and ".join(needed(name)) or "nothing but the image"
        return [
            f"{name:<{width}}  {one.summary}",
            f"{'':<{width}}  needs {needs}; source: {one.source}",
        ]

    def plain(name: str) -> dict[str, object]:
        one = POLICIES[name]
        return {
            "name": name,
            "summary": one.summary,
            "needs": needed(name),
            "source": one.source,
        }

    common.report(POLICIES, as_json=as_json, words=words, plain=plain)
