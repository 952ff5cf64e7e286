"""Control verbs: one table, used by the command line and by the local socket."""
