"""What people look at afterwards: pictures, errors, and floors to compare figures with."""
