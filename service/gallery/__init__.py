"""Items: enrolment, lists, deletion, duplicates, imports of archives."""
