"""Results for people to read: terminal, HTML pages, figures, Grad-CAM."""
