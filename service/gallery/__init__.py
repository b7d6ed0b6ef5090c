"""Items: enrolment, lists, deletion, duplicates, archives of crops."""
