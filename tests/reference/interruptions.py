"""Interruptions between two shards."""

from contextlib import contextmanager


@contextmanager
def stopped_after_one_shard(monkeypatch, module):
    """While it lasts, the first shard that `module` writes is its last: the second is interrupted.

    Gives the list of the names that were written.
    """
    write, written = module.write_shard, []

    def write_one_and_stop(path, *arguments, **options):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", write_one_and_stop)
        yield written
