package web

// Routes is the table of the dashboard, for tests.
func Routes() []route { return routes() }
