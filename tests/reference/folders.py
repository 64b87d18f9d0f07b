"""What lies in a folder, and whether it is what lies in another."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(folder, original):
    """Whether `folder` holds the files of the original and nothing else."""
    assert names(folder) == names(original)
    assert all(
        (folder / name).read_bytes() == (original / name).read_bytes() for name in names(folder)
    )
    return True
