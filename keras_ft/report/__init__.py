"""What people read: terminal, HTML, figures, Grad-CAM."""
