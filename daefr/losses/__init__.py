"""What training minimizes (paper sections 3.1 to 3.3): adversarial, contrastive and perceptual terms."""
