"""SeqIO registrations. Importing a module here, or calling its functions from gin, registers tasks."""
