import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { desk } from './desk.svelte';
import { i18n } from './i18n/i18n.svelte';
import { router } from './router.svelte';
import { theme } from './theme.svelte';

i18n.start();
theme.start();
router.start();
desk.start();

const target = document.getElementById('app');
if (target) mount(App, { target });
