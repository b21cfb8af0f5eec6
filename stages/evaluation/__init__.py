"""What the evaluate stage measures, keeps and reports."""
