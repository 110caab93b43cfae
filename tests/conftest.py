"""Its being here puts this directory on the import path: the fakes are shared by all tests."""
