"""Where models come from: the embedded one, a folder, a hub; and the fake one that tests use."""
