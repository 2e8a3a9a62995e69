from motiondirector.cli import main

if __name__ == "__main__":
    main()
