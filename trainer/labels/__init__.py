"""Labels that nobody drew by hand: seen by models, or moved with a turned face."""
