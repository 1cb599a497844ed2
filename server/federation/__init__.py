"""What an operator runs: the federation's own files, its SuperLink, its members, its runs."""
