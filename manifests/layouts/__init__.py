"""How public and own data sets lie on disk, one family a file; `dataset_formats` has the table."""
