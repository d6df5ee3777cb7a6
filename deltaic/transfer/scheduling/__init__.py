"""Who brings which blob: decisions of a fetch from several sources. Pure: time is an argument, nothing waits."""
