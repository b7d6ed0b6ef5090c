"""HTTP: the app, its middleware, routes, bodies, problem documents, and the page."""
