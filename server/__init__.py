"""What the operator runs: the coordinator and its steps. No record is ever here."""
