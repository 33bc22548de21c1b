"""The command tfkit push, which uploads a checkpoint to the Hugging Face Hub, with its card and the emissions of its run."""

from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show
from tfkit.errors import UsageError
from tfkit.units import format_bytes

EXAMPLES = ("tfkit push runs/reviews me/reviews --dry-run", "tfkit push runs/reviews me/reviews")


def push(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or a Hugging Face model folder.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; it is created if it does not exist.")],
    public: Annotated[bool, typer.Option("--public", help="Make the repository public; by default it is private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files that would be sent, and send nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Upload a model to the Hugging Face Hub, in one commit: weights, tokenizer, card and the emissions of its run.

    The training state and the paths of this machine are not uploaded. If a push breaks off, repeat the command: files that were uploaded
    are not sent again. The token is HF_TOKEN, or that of `hf auth login`.
    """
    from tfkit.engine.tools.publishing import prepare, publish

    if checkpoint.startswith("hub:"):
        raise UsageError(f"{checkpoint}: is already on the Hub; push takes a folder on this machine")
    publication = prepare(checkpoint, repository, console)
    sizes = publication.sizes()
    facts = {"checkpoint": str(publication.folder), "repository": repository, "public": public, "dry_run": dry_run}
    document = {**facts, "files": [{"name": name, "bytes": size} for name, size in sizes.items()]}
    if dry_run:
        lines = [f"{format_bytes(size):>10}  {name}" for name, size in sizes.items()]
        sent = f"{format_bytes(sum(sizes.values())):>10}  for {repository}, {'public' if public else 'private'}; nothing was sent"
        return show(document, lambda _: "\n".join([*lines, sent]), as_json=json)
    done = publish(publication, public, console)
    show(document | done, lambda _: done["url"], as_json=json)
    if not (done["changed"] or json):
        console.say(f"{repository} already had the same files")
