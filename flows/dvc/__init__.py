"""DVC: the state of a project, its commands, and the storage that machines share."""
