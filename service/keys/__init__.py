"""Who may use the API: keys with roles, and browsers that are signed in."""
